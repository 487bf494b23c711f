"""Commands that read a model: plan, size, recover, merge."""

from pathlib import Path

import click

from sharp_mobile.cli.options import (
    PLAN,
    Model,
    model_options,
    pickle_option,
    plan_option,
    quiet_option,
    random_weights_option,
    show,
    show_json,
)
from sharp_mobile.console import say, warn


@click.command()
@model_options
@plan_option
@pickle_option
@quiet_option
def plan(model: Model) -> None:
    """Show what layers of MODEL share, and how much is kept: of MLPs the ratios τ and s (paper, Eq. 1)."""
    from sharp_mobile.checkpoint.description import plan_source
    from sharp_mobile.recipe.plan_budget import is_auto

    recipe = model.recipe()
    if not is_auto(recipe.plan):
        planned = plan_source(recipe)
        for warning in planned.warnings:
            warn(warning)
        say(planned.describe())
        return
    from sharp_mobile.recovery.run import open_recipe  # measures the weights, so it needs PyTorch

    say(open_recipe(recipe).describe())


@click.command()
@model_options
@click.option("--plan", "plans", multiple=True, help=f"{PLAN} Give several --plan to compare them.")
@random_weights_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def size(model: Model, plans: tuple[str, ...], as_json: bool) -> None:
    """Predict the bytes of exports of MODEL, in the file and in memory, from its configuration alone.

    \b
    sharp-mobile size smollm2-135m
    sharp-mobile size ./Llama-3.2-1B --plan t_next --plan t_back --rank 128
    sharp-mobile size ./Llama-3.2-1B --share attention --plan t_next
    sharp-mobile size --random-weights llama-2-7b --plan t_next --plan t_back --rank 384
    """
    from sharp_mobile.size_report import report

    sizes = report([model.recipe(plan) for plan in plans or (None,)])
    show_json(sizes.as_json()) if as_json else show(sizes.lines())


@click.command()
@model_options
@plan_option
@pickle_option
@quiet_option
@click.option("--out", type=Path, help="Directory of the SHARP checkpoint; one in build/recovered/ by default.")
def recover(model: Model, out: Path | None) -> None:
    """Share MODEL's layers, fit the recovery parameters and write a SHARP checkpoint.

    Fine-tuning follows if the recipe's finetune section has max_steps or epochs. Start an interrupted run again to
    resume it. Under torchrun, several processes share the work.
    """
    from sharp_mobile.recovery.run import recover as run

    run(model.recipe(), out)


@click.command()
@click.argument("checkpoint", type=Path)
@click.option("--out", type=Path, required=True, help="The Hugging Face directory to write.")
@quiet_option
def merge(checkpoint: Path, out: Path) -> None:
    """Write a SHARP CHECKPOINT as a plain Hugging Face model, for other runtimes: same logits, original size."""
    from sharp_mobile.checkpoint.merge import merge as run

    say(f"Hugging Face model: {run(checkpoint, out)}")


COMMANDS = (plan, size, recover, merge)
