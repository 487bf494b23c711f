"""The command `bench` on this host and on emulated phones: measure, write and print the results."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sharp_mobile.bench.arm64 import bench as arm64
from sharp_mobile.bench.arm64.emulation import find_emulator
from sharp_mobile.bench.arm64.profiles import read_profile
from sharp_mobile.bench.exports import Export, read_export
from sharp_mobile.bench.host import benches, run
from sharp_mobile.bench.memory_limit import parse_bytes, parse_sweep
from sharp_mobile.bench.options import BenchOptions
from sharp_mobile.bench.results import write_results
from sharp_mobile.bench.summary import summary
from sharp_mobile.bench.sweep import sweep, write_sweep
from sharp_mobile.console import say
from sharp_mobile.errors import SharpError
from sharp_mobile.files.outputs import check_file

RESULTS_HOST = "results-host.json"
SWEEP = Path("build/bench/sweep.json")
SCHEMA_FIELD = "schema_version"  # of results and sweeps

# The places where an option has an effect; an option that is not listed has an effect everywhere.
_MEASURING, _PHONES = ("host", "android", "ios"), ("android", "ios")
_PLACES = {
    "--threads": _MEASURING,
    "--repetitions": _MEASURING,
    "--decode": _MEASURING,
    "--depth": _MEASURING,
    "--threads-sweep": _MEASURING,
    "--sustain": _MEASURING,
    "--cool-down": _MEASURING,
    "--bundle-id": ("ios",),
    "--fixed-performance": ("android",),
    "--memory-limit": ("host",),
    "--sweep": ("host",),
    "--no-weight-cache": ("host",),
    "--etdump": ("host",),
    "--profile": ("arm64",),
    "--serial": ("android",),
    "--udid": ("ios",),
    "--app": _PHONES,
    "--allow-throttled": _PHONES,
}
# A sweep of memory limits measures a forward pass only.
_NOT_SWEPT = ("--prefill", "--decode", "--depth", "--threads-sweep", "--sustain", "--cool-down")


def bench_host(
    directories: Sequence[Path],
    plan: BenchOptions,
    *,
    memory_limit: str | None = None,
    limits: str | None = None,
    etdump: bool = False,
    out: Path | None = None,
) -> None:
    """Benchmark exports on this machine; with `limits`, measure their latency by memory limit.

    Args:
        memory_limit, limits: texts for `parse_bytes` and `parse_sweep`.
        etdump: also show the time of each operator in a forward pass.
        out: the file of the results; for several exports a directory with one file each; the file of a sweep.

    Raises:
        SharpError: an option is wrong, a directory is not an export, or a launch fails.
    """
    if memory_limit is not None and limits is not None:
        raise SharpError("--memory-limit and --sweep: give one of the two")
    within = parse_sweep(limits) if limits is not None else ()
    if memory_limit is not None:
        plan = replace(plan, memory_limit=parse_bytes(memory_limit))
    exports = [read_export(directory) for directory in directories]
    if within:
        path = out or SWEEP
        if path.suffix == ".png":
            raise SharpError(f"{path}: is the name of the picture drawn next to the sweep; give a .json file")
        check_file(path, sources=[export.directory for export in exports], field=SCHEMA_FIELD)
        picture = write_sweep(path, sweep(exports, within, plan))
        say(f"{path}, {picture}")
    else:
        places = results_places(exports, RESULTS_HOST, out)
        for path, results in zip(places, run(exports, plan), strict=True):
            write_results(path, results)
            say("\n".join([*summary(results), f"  {path}"]))
    if etdump:
        _show_operators(exports, plan)


def check_options(place: str, options: Sequence[str]) -> None:
    """Refuse command-line options without effect in a place.

    Raises:
        SharpError: there is such an option.
    """
    if wrong := [option for option in options if place not in _PLACES.get(option, (place,))]:
        raise SharpError(f"{', '.join(wrong)}: has no effect with --on {place}; leave it out")
    if "--sweep" in options and (wrong := [option for option in options if option in _NOT_SWEPT]):
        raise SharpError(f"{', '.join(wrong)}: has no effect with --sweep, which runs single forwards; leave it out")


def bench_arm64(directories: Sequence[Path], phone: str, prefill: int | None = None, out: Path | None = None) -> None:
    """Count instructions of exports on an emulated phone.

    Args:
        phone: the name of its profile. prefill: tokens. out: as for `bench_host`.

    Raises:
        SharpError: there is no such phone, a tool is missing, a directory is not an export, or a launch fails.
    """
    profile, emulator = read_profile(phone), find_emulator()
    exports = [read_export(directory) for directory in directories]
    places = results_places(exports, f"results-arm64-{profile.name}.json", out)
    for export, path in zip(exports, places, strict=True):
        results = arm64.measure(export, profile, emulator, prefill)
        write_results(path, results)
        say("\n".join([*arm64.summary(results), f"  {path}"]))


def results_places(exports: Sequence[Export], name: str, out: Path | None) -> list[Path]:
    """The results file of each export: by default `name` in its directory.

    Raises:
        SharpError: two exports have the same file, or a file cannot be written or would replace one of another kind.
    """
    places = _results_places(exports, name, out)
    for path in places:
        check_file(path, sources=[export.directory for export in exports], field=SCHEMA_FIELD)
    return places


def _results_places(exports: Sequence[Export], name: str, out: Path | None) -> list[Path]:
    if out is None:
        return [export.directory / name for export in exports]
    if len(exports) == 1:
        return [out]
    if out.is_file():
        raise SharpError(f"{out}: is a file; give a directory for the results of several exports")
    names = [export.directory.resolve().name for export in exports]
    if len(set(names)) < len(names):
        raise SharpError(
            f"{', '.join(names)}: two exports and their files in {out} would have the same name; rename one"
        )
    return [out / f"{name}.json" for name in names]


def _show_operators(exports: Sequence[Export], plan: BenchOptions) -> None:
    from sharp_mobile.bench.operators import profile, table

    with benches(exports, plan) as opened:
        for bench in opened:
            trace = bench.export.directory / "forward.etdump"
            say("\n".join(["", f"{bench.export.identity.name} ({trace}):", *table(profile(bench, trace))]))
