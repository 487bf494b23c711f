"""The latency of a forward pass by memory limit, for several exports.

    ms │ ██                          a model that does not fit is read from flash for every token,
       │ ▒▒ ██ ██                    one that fits runs at full speed
       │ ▒▒ ▒▒ ▒▒ ██ ██
       └────────────────► limit      a killed process gives no number

Sharing pays off at the limits where only the shared model fits.
"""

from collections.abc import Sequence
from pathlib import Path

from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.host import benches
from sharp_mobile.bench.options import BenchOptions
from sharp_mobile.bench.packed_cache import PACKED_CACHES
from sharp_mobile.bench.results import Samples, Settings, Sweep, SweepCurve, SweepPoint
from sharp_mobile.bench.runner import Killed, Task
from sharp_mobile.bench.this_machine import this_device
from sharp_mobile.console import say
from sharp_mobile.files.outputs import replace_file, replace_text
from sharp_mobile.pte.package import executorch_package


def sweep(exports: Sequence[Export], limits: Sequence[int], plan: BenchOptions, caches: Path = PACKED_CACHES) -> Sweep:
    """Measure every export within every limit, `plan.repetitions` launches each, alternating between exports.

    Raises:
        SharpError: this system cannot limit memory, or a launch fails for another reason than memory.
    """
    seconds: dict[tuple[str, int], list[float]] = {}
    killed: set[tuple[str, int]] = set()
    with benches(exports, plan, caches) as opened:
        for limit in sorted(limits, reverse=True):
            for _ in range(plan.repetitions):
                for bench in opened:
                    place = (bench.export.identity.sha256, limit)
                    if place in killed:
                        continue
                    try:
                        launch = bench.limited(Task(prompt=bench.export.prompt, forwards=plan.forwards), limit)
                    except Killed:
                        killed.add(place)
                        say(f"{limit:,} bytes: {bench.export.identity.name} was killed")
                        continue
                    seconds.setdefault(place, []).extend(time / 1e9 for time in launch.forward_ns)
            for bench in opened:
                place = (bench.export.identity.sha256, limit)
                if place not in killed:
                    forward = Samples(seconds=tuple(seconds[place]))
                    say(f"{limit:,} bytes: {bench.export.identity.name} {1e3 * forward.median:.2f} ms per forward")
    curves = []
    for export in exports:
        places = {limit: (export.identity.sha256, limit) for limit in sorted(limits)}
        points = [
            SweepPoint(memory_limit=limit, forward=None if place in killed else Samples(seconds=tuple(seconds[place])))
            for limit, place in places.items()
        ]
        curves.append(SweepCurve(export=export.identity, points=tuple(points)))
    settings = Settings(
        runtime=f"executorch {executorch_package()[1]}",
        threads=plan.threads,
        weight_cache=plan.weight_cache,
        packed_cache=plan.weight_cache,
    )
    return Sweep(device=this_device(), settings=settings, curves=tuple(curves))


def write_sweep(path: Path, measured: Sweep) -> Path:
    """Write a sweep as JSON, with its picture next to it; returns the picture's path.

    Raises:
        SharpError: they cannot be written.
    """
    replace_text(path, measured.model_dump_json(indent=1) + "\n")
    picture = path.with_suffix(".png")
    with replace_file(picture) as partial:
        _draw(measured, partial)
    return picture


def _draw(measured: Sweep, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for curve in measured.curves:
        fits = [point for point in curve.points if point.forward is not None]
        limits = [point.memory_limit / 1e6 for point in fits]
        medians = [1e3 * point.forward.median for point in fits if point.forward is not None]
        label = f"{curve.export.name} ({curve.export.file_bytes / 1e6:.0f} MB)"
        (line,) = axes.plot(limits, medians, marker="o", label=label)
        for point in curve.points:
            if point.forward is None:
                # At the bottom of the picture: y is in axes coordinates.
                place = axes.get_xaxis_transform()
                axes.plot(point.memory_limit / 1e6, 0.03, "x", color=line.get_color(), transform=place)
    axes.set(xlabel="memory limit, MB (×: killed)", ylabel="forward of one token, ms", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
