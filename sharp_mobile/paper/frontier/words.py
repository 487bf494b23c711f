"""A frontier as text: a table of its points, and what they show."""

from collections.abc import Iterator

from sharp_mobile.paper.frontier.methods import UNSHARED
from sharp_mobile.paper.frontier.points import Frontier, Point

_EQUAL = 0.005  # perplexities closer than this, relatively, are not called better


def table(frontier: Frontier) -> list[str]:
    """The points by size, a line each; then what was not reached."""
    settings = frontier.settings
    counted = any(point.measured.instructions is not None for point in frontier.points)
    head = ["size", "method", "bytes", "of 100%", "perplexity", "KL", "top-1", "resident MB"]
    rows = [head + (["M instr/token"] if counted else [])]
    for point in (*sorted(frontier.points, key=lambda point: -point.size), *frontier.beside):
        measured = point.measured
        rows.append(
            [
                "beside" if point in frontier.beside else f"{point.size:.0%}",
                point.name,
                f"{measured.file_bytes:,}",
                f"{measured.file_bytes / frontier.unshared_bytes:.1%}",
                f"{measured.perplexity:,.2f}",
                "–" if measured.kl is None else f"{measured.kl:.4f}",
                "–" if measured.agreement is None else f"{measured.agreement:.1%}",
                f"{measured.resident_bytes / 1e6:,.1f}",
            ]
            + ([] if not counted else ["–" if measured.instructions is None else f"{measured.instructions / 1e6:,.1f}"])
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        f"{frontier.model}: float perplexity {frontier.original:.2f} on {settings.text}, {settings.windows} windows of "
        f"{settings.window}; KL in nats a token and top-1 agreement with the float original; memory "
        f"{'measured' if settings.host else 'predicted'}"
        + (f"; instructions on {settings.profile}" if counted else "; instructions not counted"),
        "",
        *(_line(row, widths) for row in rows),
        *_not_reached(frontier),
    ]


def _line(cells: list[str], widths: list[int]) -> str:
    left = {1}  # the method's name
    padded = (
        cell.ljust(width) if column in left else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(padded).rstrip()


def _not_reached(frontier: Frontier) -> Iterator[str]:
    """A line for each method and reason, with its sizes."""
    sizes: dict[tuple[str, str], list[str]] = {}
    for missing in frontier.missing:
        sizes.setdefault((missing.name, missing.reason), []).append(f"{missing.size:.0%}")
    if sizes:
        yield ""
    for (method, reason), at in sizes.items():
        yield f"{method} at {', '.join(at)}: {reason}"


def findings(frontier: Frontier) -> Iterator[str]:
    """Which method wins at each size, by how much over unshared with at most as many bytes, and where nothing pays.

    As fitted in closed form first, then at the sizes that have fine-tuned exports, with all of a size's exports.
    """
    yield from _findings(frontier, 0)
    for steps in sorted({point.finetuned for point in frontier.points} - {0}):
        yield from (f"after {steps} steps, {line}" for line in _findings(frontier, steps))


def _findings(frontier: Frontier, steps: int) -> Iterator[str]:
    reached = {point.size for point in frontier.points if point.size < 1 and point.finetuned == steps}
    asked = reached if steps else reached | {missing.size for missing in frontier.missing}
    for size in sorted(asked, reverse=True):
        at = f"at {size:.0%} ({size * frontier.unshared_bytes / 1e6:.1f} MB)"
        every = [point for point in frontier.points if point.size == size and point.finetuned in (0, steps)]
        sharing = [point for point in every if point.method != UNSHARED]
        if not sharing:
            yield f"{at}: no method but {UNSHARED} gets there"
            continue
        best = min(sharing, key=_perplexity)
        yield f"{at}: {_compared(best, _unshared_within(frontier, size), _beside_within(frontier, size))}"


def _perplexity(point: Point) -> float:
    return point.measured.perplexity


def _within(points: tuple[Point, ...], nbytes: float) -> Point | None:
    """The best point with at most so many bytes."""
    fitting = [point for point in points if point.measured.file_bytes <= nbytes]
    return min(fitting, key=_perplexity, default=None)


def _unshared_within(frontier: Frontier, size: float) -> Point | None:
    unshared = tuple(point for point in frontier.points if point.method == UNSHARED)
    # A prediction is exact to a few thousandths, and its own point has to count.
    own = [point for point in unshared if point.size == size]
    found = _within(unshared, size * frontier.unshared_bytes)
    return min((point for point in (found, *own) if point is not None), key=_perplexity, default=None)


def _beside_within(frontier: Frontier, size: float) -> Point | None:
    return _within(frontier.beside, size * frontier.unshared_bytes)


def _compared(best: Point, unshared: Point | None, beside: Point | None) -> str:
    """The best method next to the alternatives that share nothing."""
    value = _perplexity(best)
    said = f"{best.name} is best of those that share or leave out, perplexity {_number(value)}"
    pays = True
    if unshared is None:
        said += f"; no {UNSHARED} export is that small"
    else:
        said += f", {_difference(value, _perplexity(unshared))} {UNSHARED} ({_number(_perplexity(unshared))})"
        pays = value < _perplexity(unshared) * (1 - _EQUAL)
    if beside is not None:
        said += f", {_difference(value, _perplexity(beside))} {beside.method} ({_number(_perplexity(beside))})"
        pays = pays and value < _perplexity(beside) * (1 - _EQUAL)
    return said if pays else f"{said}: nothing pays here"


def _difference(value: float, other: float) -> str:
    if abs(value - other) <= _EQUAL * other:
        return "the same as"
    return f"{_number(abs(value - other))} {'less' if value < other else 'more'} than"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"
