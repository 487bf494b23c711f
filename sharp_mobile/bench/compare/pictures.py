"""Pictures of a comparison as inline SVG: bars for each metric, lines for a memory sweep.

A picture has no title and no legend; the page writes them as text. All but bars and lines has the colour of the page's
text, so that a picture suits light and dark pages. It refers to nothing outside itself.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib

from sharp_mobile.bench.results import Sweep, Window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import RcKeyType

COLORS = ("#4c8bc4", "#e0795a", "#d3a73b", "#6aa67a", "#9a7cc0", "#7f8a94")

_WIDTH = 4.6  # inches: 331 points, about a phone's width
_TEXT = "#010203"  # placeholder for the page's text colour while matplotlib draws
_STYLE: "dict[RcKeyType, object]" = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sharp_mobile",  # equal pictures get equal ids, so that pages can be compared
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "font.size": 10,
    "savefig.transparent": True,
}


@dataclass(frozen=True)
class Bars:
    """The bars of one column under its name: values (None if not measured) with their standard deviations.

    In a `stacked` picture the values are parts of one bar.
    """

    name: str
    values: tuple[float | None, ...]
    spreads: tuple[float, ...] = ()


def bar_picture(groups: Sequence[Bars], *, stacked: bool = False, decimals: int = 0) -> str:
    """Horizontal bars as SVG, each group under its name, with every value at the end of its bar."""
    rows = sum(1 + (1 if stacked else sum(value is not None for value in group.values)) for group in groups)
    with _figure(0.24 * rows + 0.1) as (axes, drawn):
        place, ends = 0.0, []
        for group in groups:
            axes.text(0, place, group.name, va="center", parse_math=False)
            place += 0.85
            values = [(index, value) for index, value in enumerate(group.values) if value is not None]
            left = 0.0
            for index, value in values:
                spread = group.spreads[index] if group.spreads else None
                axes.barh(place, value, 0.62, left, xerr=spread, color=COLORS[index], ecolor=_TEXT)
                left = left + value if stacked else 0.0
                if not stacked:
                    ends.append((value + (spread or 0.0), place, value))
                    place += 0.8
            if stacked:
                ends.append((left, place, left))
                place += 0.8
            place += 0.35
        longest = max(end for end, _, _ in ends) or 1.0  # not 0, even if all bars are
        for end, y, value in ends:
            axes.text(end + longest / 60, y, f"{value:,.{decimals}f}", va="center")
        axes.set(xlim=(0, 1.2 * longest), ylim=(place - 0.6, -0.6))
        axes.axis("off")
    return drawn[0]


def sweep_picture(sweep: Sweep) -> str:
    """Median milliseconds of a forward pass by memory limit as SVG, with a line for each export.

    A cross at the bottom marks a limit at which the export was killed.
    """
    with _figure(2.9) as (axes, drawn):
        for curve, color in zip(sweep.curves, COLORS * len(sweep.curves), strict=False):
            ran = [(p.memory_limit / 1e6, p.forward.median * 1e3) for p in curve.points if p.forward is not None]
            failed = [p.memory_limit / 1e6 for p in curve.points if p.forward is None]
            axes.plot([x for x, _ in ran], [y for _, y in ran], "o-", color=color, markersize=4)
            axes.plot(failed, [0.03] * len(failed), "x", color=color, transform=axes.get_xaxis_transform())
        axes.set(xlabel="memory limit, MB", ylabel="one token, ms", yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(matplotlib.ticker.LogFormatter(minor_thresholds=(2, 0.5)))
        _open_grid(axes)
    return drawn[0]


def sustained_picture(lines: Sequence[Sequence[Window]]) -> str:
    """Tokens per second of sustained runs by time as SVG, a line for each."""
    with _figure(2.4) as (axes, drawn):
        for windows, color in zip(lines, COLORS * len(lines), strict=False):
            start = windows[0].at - windows[0].seconds
            times = [window.at - start for window in windows]
            axes.step(
                [0.0, *times], [windows[0].per_second, *(w.per_second for w in windows)], where="pre", color=color
            )
        axes.set(xlabel="seconds", ylabel="tokens/s", ylim=(0, None), xlim=(0, None))
        _open_grid(axes)
    return drawn[0]


def _open_grid(axes: "Axes") -> None:
    """A faint grid, and a frame at the left and the bottom only."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2, color=_TEXT)


@contextmanager
def _figure(height: float) -> Iterator[tuple["Axes", list[str]]]:
    """Axes to draw on; at the end of the block the list holds their SVG."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn: list[str] = []
    with matplotlib.rc_context(_STYLE):
        figure, axes = pyplot.subplots(figsize=(_WIDTH, height), layout="constrained")
        try:
            yield axes, drawn
            file = io.StringIO()
            figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
            drawn.append(_inline(file.getvalue()))
        finally:
            pyplot.close(figure)


def _inline(svg: str) -> str:
    """An SVG file as part of an HTML page: without prologue, namespaces and sizes, in the page's text colour."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (xmlns(:xlink)?|version|width|height)="[^"]*"', "", svg, count=5)
    # matplotlib gives the groups of every figure the same ids. Ids must be unique in a page, and nothing uses these.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    return svg.replace(_TEXT, "currentColor")
