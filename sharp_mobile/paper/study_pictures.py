"""Pictures of the layer studies in the layout of the paper's Figures 2, 3 and 4; layers are 1-based."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from sharp_mobile.files.outputs import replace_file
from sharp_mobile.paper.studies import DistanceStudy, ReplacementStudy, Study, TextSetting, ZeroingStudy

_BLUE, _RED, _YELLOW, _GRAY = "#4878a8", "#d1605e", "#e7ba52", "#777777"


def draw(study: Study, path: Path) -> None:
    """Draw a study as a PNG file."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, _panels(study), figsize=(5.2 * _panels(study), 3.8), layout="constrained")
    try:
        match study:
            case ReplacementStudy():
                _draw_replacement(study, figure, list(np.atleast_1d(axes)))
            case DistanceStudy():
                _draw_distances(study, axes[0], axes[1])
            case ZeroingStudy():
                panels = list(np.atleast_1d(axes))
                _draw_zeroing(study, panels[0])
                if len(panels) > 1:
                    _draw_scores(study, panels[1])
        figure.suptitle(_title(study), fontsize="small")
        with replace_file(path) as partial:
            figure.savefig(partial, dpi=120)
    finally:
        pyplot.close(figure)


def _panels(study: Study) -> int:
    match study:
        case DistanceStudy():
            return 2
        case ReplacementStudy():
            return 2 if any(pair.target - pair.reference > 1 for pair in study.pairs) else 1
        case ZeroingStudy():
            return 2 if study.original_scores else 1
        case _:
            return 1


def _title(study: Study) -> str:
    setting = study.setting
    if isinstance(setting, TextSetting):
        return f"{setting.model} on {setting.text}, {setting.windows} windows of {setting.window} tokens"
    return setting.model


def _draw_replacement(study: ReplacementStudy, figure: Figure, panels: list[Axes]) -> None:
    adjacent = sorted((p.reference, p.perplexity) for p in study.pairs if p.target == p.reference + 1)
    axes = panels[0]
    axes.plot([layer for layer, _ in adjacent], [value for _, value in adjacent], ".-", color=_BLUE)
    _reference_line(axes, study.original)
    axes.set(xlabel="reference layer, whose MLP replaces the next layer's", ylabel="perplexity")
    _logarithmic(axes)
    if len(panels) > 1:
        _draw_all_pairs(study, figure, panels[1])


def _draw_all_pairs(study: ReplacementStudy, figure: Figure, axes: Axes) -> None:
    values = np.full((study.layers, study.layers), np.nan)
    for pair in study.pairs:
        values[pair.reference - 1, pair.target - 1] = pair.perplexity
    finite = values[np.isfinite(values)]
    best = study.original or finite.min()
    # A few pairs are thousands of times worse, so the colors end at ten times the best.
    norm = LogNorm(best, min(max(finite.max(), 1.01 * best), 10 * best))
    extent = (0.5, study.layers + 0.5, study.layers + 0.5, 0.5)
    image = axes.imshow(values, norm=norm, cmap="viridis_r", extent=extent)
    bar = figure.colorbar(image, ax=axes, label="perplexity", extend="max")
    _plain_numbers(bar.ax.yaxis)
    axes.set(xlabel="target layer", ylabel="reference layer")


def _draw_distances(study: DistanceStudy, means: Axes, by_layer: Axes) -> None:
    colors = {"gate": _BLUE, "up": _YELLOW, "down": _RED}
    bars = means.bar(list(study.mean), list(study.mean.values()), color=[colors[name] for name in study.mean])
    means.bar_label(bars, fmt="%.2f")
    means.margins(y=0.1)
    means.set_ylabel("mean of ‖Θ(l+1) − Θ(l)‖ / ‖Θ(l)‖")
    layers = [distance.layer for distance in study.distances]
    for name, color in colors.items():
        by_layer.plot(layers, [getattr(d, name) for d in study.distances], ".-", color=color, label=name)
    by_layer.axhline(2**0.5, color=_GRAY, linestyle=":", label="√2: unrelated, equal norms")
    by_layer.set(xlabel="layer l", ylabel="‖Θ(l+1) − Θ(l)‖ / ‖Θ(l)‖")
    by_layer.legend(fontsize="small", frameon=False)


def _draw_zeroing(study: ZeroingStudy, axes: Axes) -> None:
    # Without layer 1, as in the paper: its value is so large that the others would look equal.
    zeroed = sorted((z.layer, z.perplexity) for z in study.zeroed if z.layer > 1)
    first = next((z.perplexity for z in study.zeroed if z.layer == 1), None)
    left_out = "" if first is None else f"  (layer 1, not drawn: {first:,.0f})"
    axes.plot([layer for layer, _ in zeroed], [value for _, value in zeroed], ".-", color=_RED)
    _reference_line(axes, study.original)
    axes.set(xlabel=f"layer whose MLP is zero{left_out}", ylabel="perplexity")
    _logarithmic(axes)


def _draw_scores(study: ZeroingStudy, axes: Axes) -> None:
    for metric, original in study.original_scores.items():
        lost = sorted((zeroed.layer, original - zeroed.scores[metric]) for zeroed in study.zeroed)
        axes.plot([layer for layer, _ in lost], [value for _, value in lost], ".-", label=metric)
    axes.axhline(0, color=_GRAY, linestyle="--")
    axes.set(xlabel="layer whose MLP is zero", ylabel=f"{study.setting.task}: score lost")
    axes.legend(fontsize="small", frameon=False)


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    _plain_numbers(axes.yaxis)


def _plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with 60, not 6 × 10¹."""
    axis.set_major_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))


def _reference_line(axes: Axes, original: float | None) -> None:
    if original is not None:
        axes.axhline(original, color=_GRAY, linestyle="--", label=f"original, {original:.1f}")
        axes.legend(fontsize="small", frameon=False)
