"""The picture of a frontier: bytes across, perplexity up, a line a method; lower and further left is better."""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sharp_mobile.files.outputs import replace_file
from sharp_mobile.paper.frontier.methods import METHODS, UNSHARED
from sharp_mobile.paper.frontier.points import Frontier, Point

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Colours that differ in lightness, too; `unshared` is the dark one that the others are compared with.
_COLORS = (
    *("#222222", "#2f6db3", "#d1605e", "#3f9a6b", "#b8860b", "#7cb5ec", "#8e5bb5"),
    *("#a0522d", "#e48fb0", "#6b8e23", "#5f9ea0", "#ff8c42"),
)
_MARKERS = "osD^vPX<>hpd"
_GRAY = "#777777"
_HIGHEST = 6.0  # times the least perplexity; points above are drawn at the edge, with an arrow
_DPI = 100
_STYLE: "dict[RcKeyType, object]" = {
    "svg.hashsalt": "sharp_mobile",  # equal pictures are equal files
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "font.size": 11,
}


def draw(frontier: Frontier, path: Path) -> None:
    """Draw a frontier as PNG, 800 pixels wide, and SVG next to `path`, with its name."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(_STYLE):
        figure, axes = pyplot.subplots(figsize=(8, 5.4), layout="constrained")
        try:
            _draw(frontier, axes)
            figure.legend(loc="outside lower center", frameon=False, fontsize=10, ncols=5)
            for suffix in (".png", ".svg"):
                with replace_file(path.with_suffix(suffix)) as partial:
                    figure.savefig(partial, dpi=_DPI, metadata={"Date": None} if suffix == ".svg" else None)
        finally:
            pyplot.close(figure)


def _draw(frontier: Frontier, axes: Axes) -> None:
    every = (*frontier.points, *frontier.beside)
    least = min(frontier.original, *(point.measured.perplexity for point in every))
    highest = min(_HIGHEST * least, 1.15 * max(frontier.original, *(point.measured.perplexity for point in every)))
    axes.axhline(frontier.original, color=_GRAY, linestyle="--", linewidth=1, zorder=0)
    axes.annotate(
        f"float, {frontier.original:.1f}",
        (1, frontier.original),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 3),
        textcoords="offset points",
        ha="right",
        color=_GRAY,
    )
    start = [point for point in frontier.points if point.method == UNSHARED and point.size == 1]
    for name, color, marker in zip(METHODS, _COLORS, _MARKERS, strict=True):
        for finetuned in sorted({point.finetuned for point in frontier.points}):
            points = [point for point in frontier.points if (point.method, point.finetuned) == (name, finetuned)]
            if not [point for point in points if point.size < 1 or name == UNSHARED]:
                continue
            line = sorted([*([] if name == UNSHARED else start), *points], key=lambda point: -point.measured.file_bytes)
            _line(axes, line, color, marker, highest, own=points)
    for point in frontier.beside:
        at = (point.measured.file_bytes / 1e6, min(point.measured.perplexity, highest))
        axes.plot(*at, "*", color="#000000", markersize=13, label=f"{point.method}, unshared", zorder=4)
    axes.set_yscale("log")
    axes.set_ylim(0.97 * least, 1.03 * highest)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    settings = frontier.settings
    axes.set(xlabel="bytes of the .pte, MB", ylabel="perplexity")
    axes.set_title(
        f"{frontier.model} on {settings.text}, {settings.windows} windows of {settings.window} tokens", fontsize=11
    )


def _line(axes: Axes, line: list[Point], color: str, marker: str, highest: float, *, own: list[Point]) -> None:
    """A method's points, joined from the unshared export on; those above the picture are arrows at its edge.

    After fine-tuning they are hollow, and the line is dashed.
    """
    tuned = bool(own[0].finetuned)
    sizes = [point.measured.file_bytes / 1e6 for point in line]
    perplexities = [point.measured.perplexity for point in line]
    axes.plot(sizes, perplexities, "--" if tuned else "-", color=color, linewidth=1.4, alpha=0.8)
    inside = [point for point in own if point.measured.perplexity <= highest]
    axes.plot(
        [point.measured.file_bytes / 1e6 for point in inside],
        [point.measured.perplexity for point in inside],
        marker,
        color=color,
        markersize=6,
        markerfacecolor="white" if tuned else color,
        label=own[0].name,
    )
    for point in own:
        if point.measured.perplexity > highest:
            axes.annotate(
                "↑", (point.measured.file_bytes / 1e6, highest), color=color, ha="center", va="top", fontweight="bold"
            )
