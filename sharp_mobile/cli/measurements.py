"""Commands that measure exports and compare the results: bench, prepack, compare, check."""

from pathlib import Path

import click

from sharp_mobile.cli.options import show
from sharp_mobile.console import say


def _command_line_options(context: click.Context) -> list[str]:
    """The options that the user wrote, without defaults."""
    written = click.core.ParameterSource.COMMANDLINE
    options = [option for option in context.command.params if isinstance(option, click.Option)]
    return [option.opts[0] for option in options if context.get_parameter_source(option.name or "") is written]


@click.command()
@click.argument("exports", type=Path, nargs=-1, required=True)
@click.option(
    "--on",
    "place",
    type=click.Choice(["host", "arm64", "android", "ios"]),
    default="host",
    show_default=True,
    help="Where to measure.",
)
@click.option("--profile", default="pixel-6", show_default=True, help="With --on arm64: the phone; 'list' lists them.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--repetitions", type=click.IntRange(min=1), default=5, show_default=True, help="Launches of each kind.")
@click.option("--prefill", type=click.IntRange(min=1), help="Prompt tokens; default 512 or the export's limit.")
@click.option("--decode", type=click.IntRange(min=1), help="Generated tokens; default 128 or the export's limit.")
@click.option("--depth", metavar="TOKENS,…", help="Also decode after this many tokens; default 512, or none.")
@click.option("--threads-sweep", metavar="N,…", help="Also prefill and decode with 1,2,4,performance threads.")
@click.option(
    "--sustain", type=click.IntRange(min=1), metavar="SECONDS", help="At the end, decode this long without a pause."
)
@click.option("--cool-down", type=click.IntRange(min=0), metavar="SECONDS", help="Wait before each export's launches.")
@click.option("--memory-limit", metavar="SIZE", help="Memory limit of each process, such as 330M; see the README.")
@click.option("--sweep", "limits", metavar="FROM:TO:STEP", help="Forward latency by memory limit: 100M:400M:50M.")
@click.option("--no-weight-cache", is_flag=True, help="Pack a shared weight separately for every layer that uses it.")
@click.option("--etdump", is_flag=True, help="Show the time of each operator in a forward pass.")
@click.option("--serial", help="With --on android: the serial number of the phone, if there are several.")
@click.option("--udid", help="With --on ios: the UDID of the phone, if there are several.")
@click.option("--bundle-id", help="With --on ios: the app's bundle identifier, if you changed it.")
@click.option("--fixed-performance", is_flag=True, help="With --on android: hold the clocks at a level that lasts.")
@click.option("--app", type=Path, help="On a phone: install the benchmark app from this .apk or .ipa first.")
@click.option("--allow-throttled", is_flag=True, help="On a phone: measure even if it is too warm for full speed.")
@click.option("--out", type=Path, help="File of the results; with several EXPORTS, a directory with one file each.")
@click.pass_context
def bench(
    context: click.Context,
    /,
    exports: tuple[Path, ...],
    place: str,
    profile: str,
    threads: int,
    repetitions: int,
    prefill: int | None,
    decode: int | None,
    depth: str | None,
    threads_sweep: str | None,
    sustain: int | None,
    cool_down: int | None,
    memory_limit: str | None,
    limits: str | None,
    no_weight_cache: bool,
    etdump: bool,
    serial: str | None,
    udid: str | None,
    bundle_id: str | None,
    fixed_performance: bool,
    app: Path | None,
    allow_throttled: bool,
    out: Path | None,
) -> None:
    """Measure load, time to first token, prefill, decode and memory of EXPORTS, alternating between them.

    \b
    sharp-mobile bench build/exports/smollm2-135m build/exports/smollm2-135m-unshared
    sharp-mobile bench build/exports/a build/exports/b --sweep 60M:200M:10M
    sharp-mobile bench build/exports/a --on arm64 --profile pixel-6
    sharp-mobile bench build/exports/a build/exports/b --on android --sustain 120 --threads-sweep 1,2,4,performance

    The host's runner is a plain C++ program without custom_sdpa: export with --set attention=portable. The results go
    to results-host.json next to each .pte, or to --out.

    --on arm64 counts the instructions of --prefill tokens on one thread of an emulated phone. The results go to
    results-arm64-<profile>.json. It needs QEMU, an ARM64 compiler and the runtime's ARM64 libraries; the error for a
    missing one says how to get it.

    --on android and --on ios push the exports to an attached phone, where the benchmark app measures them. The results
    go to results-android-<model>.json. For iPhones: pip install 'sharp-mobile[ios]'.
    """
    from sharp_mobile.bench.options import BenchOptions, parse_depths, parse_threads_sweep
    from sharp_mobile.bench.run import bench_arm64, bench_host, check_options

    written = _command_line_options(context)
    check_options(place, written)
    if place == "arm64":
        bench_arm64(exports, profile, prefill, out)
        return
    if place in ("android", "ios"):
        from sharp_mobile.bench.devices.run import bench_phone

        given = {
            "threads": threads if "--threads" in written else None,
            "repetitions": repetitions if "--repetitions" in written else None,
            "prefill": prefill,
            "decode": decode,
            "depths": depth,
            "threads_sweep": threads_sweep,
            "sustain": sustain,
            "cool_down": cool_down,
        }
        bench_phone(
            place,
            exports,
            {name: str(value) for name, value in given.items() if value is not None},
            identifier=serial or udid,
            bundle_id=bundle_id,
            app=app,
            allow_throttled=allow_throttled,
            fixed_performance=fixed_performance,
            out=out,
        )
        return
    plan = BenchOptions(
        threads=threads,
        repetitions=repetitions,
        prefill=prefill,
        decode=decode,
        depths=None if depth is None else parse_depths(depth),
        threads_sweep=() if threads_sweep is None else parse_threads_sweep(threads_sweep),
        sustain=sustain or 0,
        cool_down=cool_down or 0,
        weight_cache=not no_weight_cache,
    )
    bench_host(exports, plan, memory_limit=memory_limit, limits=limits, etdump=etdump, out=out)


@click.command()
@click.argument("export_directory", type=Path)
@click.option("--profile", default="pixel-6", show_default=True, help="The phone; 'list' lists them.")
def prepack(export_directory: Path, profile: str) -> None:
    """Pack an export's weights on an emulated phone, so that the first launch on such a phone is as fast as later ones.

    Writes the packed weights to packed/ in the export and describes them in its manifest. Needs the tools of `bench
    --on arm64` and an export with attention=portable.
    """
    from sharp_mobile.bench.arm64.emulation import find_emulator
    from sharp_mobile.bench.arm64.prepack import prepack as run
    from sharp_mobile.bench.arm64.profiles import read_profile
    from sharp_mobile.bench.exports import read_export

    packed = run(read_export(export_directory), read_profile(profile), find_emulator())
    say(f"{export_directory / packed.file}: {packed.bytes:,} bytes, for {packed.cpu_class}")


@click.command()
@click.argument("exports", nargs=-1, required=True, type=Path)
@click.option("--sweep", "sweeps", multiple=True, type=Path, help="JSON of a memory sweep, to draw in the HTML page.")
@click.option("--markdown", type=Path, help="Also write the table as Markdown.")
@click.option("--html", type=Path, help="Also write it as a self-contained page with pictures.")
def compare(exports: tuple[Path, ...], sweeps: tuple[Path, ...], markdown: Path | None, html: Path | None) -> None:
    """Compare the size, load, forward pass, memory and instructions of EXPORTS, with ratios to the first one.

    Each is the directory of an export with its results*.json, or a results file from any device. Measurements from
    different devices get no ratio.

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
    say(as_text(table))


@click.command()
@click.argument("export_directory", type=Path)
@click.argument("results", nargs=-1, type=Path)
@click.option(
    "--budgets", type=Path, help="File of the budgets; ./export/budgets.toml by default, then the shipped one."
)
@click.option("--update", is_flag=True, help="Write the current values as budgets; comments and tolerances stay.")
def check(export_directory: Path, results: tuple[Path, ...], budgets: Path | None, update: bool) -> None:
    """Compare an export, its results*.json and other RESULTS with the budgets of its recipe.

    Fails if a budget is exceeded: the file grew, sharing was lost, or it needs more memory or instructions.
    """
    from sharp_mobile.bench.budgets.check import run

    show(run(export_directory, results, budgets, update=update))


COMMANDS = (bench, prepack, compare, check)
