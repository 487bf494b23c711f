"""A table of exports and results: one column each, with ratios to the first one on the same device.

                            original, host    shared, host
    size
      .pte           bytes     106,410,624      97,863,296 ×0.920
    one token
      forward, median   ms           11.90           12.10 ×1.017

Values of different devices have no ratio; a star marks them. Rows without a measurement are left out, and a missing
value is a dash.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sharp_mobile.bench.compare.measurements import Column
from sharp_mobile.bench.compare.metrics import Metric, metrics_of
from sharp_mobile.bench.results import Results, Settings
from sharp_mobile.bench.verdict import warnings_of
from sharp_mobile.files.printable import markdown

MISSING = "–"
OTHER_DEVICE = "*"
DESCRIPTION = "description"

_UNITS = {"bytes": "bytes", "rate": "/s", "count": "", "nats": "nats", "ratio": ""}


@dataclass(frozen=True)
class Cell:
    """A formatted value, and its ratio to the baseline: `×0.919`, a star for another device, or nothing."""

    text: str
    ratio: str = ""


@dataclass(frozen=True)
class Row:
    """A line of the table under the heading `group`, with one cell per column."""

    group: str
    name: str
    unit: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A comparison: the columns' names, the lines, and notes for the reader."""

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def compare(columns: Sequence[Column]) -> Table:
    """The table of some columns; the first one is the baseline."""
    rows = [*_descriptions(columns), *(_row(figure, columns) for figure in known(columns))]
    return Table(tuple(column.name for column in columns), tuple(rows), tuple(_notes(columns, rows)))


def known(columns: Sequence[Column]) -> list[Metric]:
    """The metrics that at least one of the columns has."""
    return [figure for figure in metrics_of(columns) if any(figure.of(column) is not None for column in columns)]


def baseline(column: Column, columns: Sequence[Column]) -> Column:
    """The column that measured values are compared with: the first one on the same device, maybe itself."""
    return next((other for other in columns if other.on_same_device(column)), column)


def unit_of(figure: Metric, columns: Sequence[Column]) -> tuple[str, float]:
    """The unit of a metric in the table, and the factor from the unit of the results."""
    if figure.kind == "megabytes":
        return "MB", 1e-6
    if figure.kind != "seconds":
        return _UNITS[figure.kind], 1.0
    largest = max(value for column in columns if (value := figure.of(column)) is not None)
    return ("s", 1.0) if largest >= 1 else ("ms", 1e3) if largest >= 1e-3 else ("µs", 1e6)


def _row(figure: Metric, columns: Sequence[Column]) -> Row:
    unit, scale = unit_of(figure, columns)
    values = [value * scale for column in columns if (value := figure.of(column)) is not None]
    decimals = 0 if figure.kind in ("bytes", "count") else _decimals(values)
    cells = []
    for column in columns:
        value = figure.of(column)
        if value is None:
            cells.append(Cell(MISSING))
            continue
        text = f"{value * scale:,.{decimals}f}"
        if (spread := figure.spread_of(column)) is not None:
            text += f" ± {spread * scale:,.{decimals}f}"
        cells.append(Cell(text, _ratio(figure, column, columns)))
    return Row(figure.group, figure.name, unit, tuple(cells))


def _decimals(values: Sequence[float]) -> int:
    """The number of decimals that shows three significant digits of the smallest value, at most four."""
    smallest = min((abs(value) for value in values if value), default=1.0)
    return min(max(2 - math.floor(math.log10(smallest)), 0), 4)


def _ratio(figure: Metric, column: Column, columns: Sequence[Column]) -> str:
    base = baseline(column, columns) if figure.measured else columns[0]
    if base is column:
        first = next(other for other in columns if figure.of(other) is not None)
        return "" if first is column else OTHER_DEVICE
    if not figure.measured and base.export.sha256 == column.export.sha256:
        return ""
    value, of = figure.of(column), figure.of(base)
    return f"×{value / of:.3f}" if value is not None and of else ""


def _descriptions(columns: Sequence[Column]) -> Iterator[Row]:
    """Rows that describe the export and the measurement."""

    def row(name: str, texts: list[str]) -> Row:
        return Row(DESCRIPTION, name, "", tuple(Cell(text) for text in texts))

    yield row("export", [column.export.name for column in columns])
    yield row("plan", [column.export.plan for column in columns])
    if any(column.results for column in columns):
        described = [_described(column.results) for column in columns]
        for name in next(cells for cells in described if cells):
            yield row(name, [cells.get(name, MISSING) for cells in described])


def _described(results: Results | None) -> dict[str, str]:
    if results is None:
        return {}
    device = results.device
    token, logit = next(iter(results.likeliest), (None, math.nan))
    return {
        "device": f"{device.model}{' (emulated)' if device.kind == 'arm64' else ''}",
        "CPU": f"{device.cores} × {device.cpu}",
        "system": device.os,
        "harness": results.settings.harness,
        **_settings(results.settings),
        "prefill, decode": _tokens(results),
        "measured": results.created,
        "predicts": f"token {token}, logit {logit:.5f}" if results.likeliest else MISSING,
    }


def _tokens(results: Results) -> str:
    counts = [samples.tokens for samples in (results.prefill, results.decode) if samples]
    return f"of {', '.join(map(str, counts))} tokens" if counts else MISSING


def _settings(settings: Settings) -> dict[str, str]:
    def switch(on: bool) -> str:
        return "on" if on else "off"

    limit = settings.memory_limit
    return {
        "runtime": settings.runtime,
        "threads": str(settings.threads),
        "weight cache": switch(settings.weight_cache),
        "packed weights on disk": switch(settings.packed_cache),
        "memory limit": "none" if limit is None else f"{limit / 1e6:,.0f} MB",
    } | ({"fixed performance": "on"} if settings.fixed_performance else {})


def _conditions(results: Results) -> dict[str, str]:
    """The settings that must be equal, so that ratios depend only on the exports."""
    tokens = {
        "prefill": results.prefill and results.prefill.tokens,
        "decode": results.decode and results.decode.tokens,
        "prompt before the first token": results.first_token.later and results.first_token.later.tokens,
        "counted prefill": results.counts and results.counts.prefill_tokens,
    }
    return _settings(results.settings) | {name: f"of {count} tokens" for name, count in tokens.items() if count}


def _notes(columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    if any(cell.ratio.startswith("×") for row in rows for cell in row.cells):
        yield "× is the ratio to the first column; for a measured value, to the first column on the same device."
    if any(cell.ratio == OTHER_DEVICE for row in rows for cell in row.cells):
        yield (
            f"{OTHER_DEVICE} marks another device than the first column's: times, memory and instructions of "
            "different devices have no ratio."
        )
    for column in columns:
        base = baseline(column, columns)
        if column.results is None or base.results is None:
            continue
        if column.results.error:
            yield f"{column.name} failed: {column.results.error}"
        mine, its = _conditions(column.results), _conditions(base.results)
        differences = [
            f"{name} {mine[name]}, there {its[name]}" for name in mine if mine[name] != its.get(name, mine[name])
        ]
        if differences:
            yield f"{column.name} was measured differently from {base.name}: {'; '.join(differences)}."
        yield from (f"{column.name}: {warning}" for warning in warnings_of(column.results))


def as_text(table: Table) -> str:
    """The table for a terminal."""
    heads = [("", "", *table.names)]
    lines = [(f"  {row.name}", row.unit, *(f"{c.text} {c.ratio}".rstrip() for c in row.cells)) for row in table.rows]
    widths = [max(len(line[index]) for line in heads + lines) for index in range(len(heads[0]))]

    def aligned(line: Sequence[str]) -> str:
        name, *others = (
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        return "  ".join([name, *others]).rstrip()

    text, group = [aligned(heads[0])], ""
    for row, line in zip(table.rows, lines, strict=True):
        if row.group != group:
            text += [row.group]
            group = row.group
        text.append(aligned(line))
    return "\n".join([*text, "", *table.notes]).rstrip()


def as_markdown(table: Table) -> str:
    """The table as GitHub Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    text = [line(["", *map(markdown, table.names)]), "|---|" + "---:|" * len(table.names)]
    group = ""
    for row in table.rows:
        if row.group not in (group, DESCRIPTION):
            text.append(line([f"**{markdown(row.group)}**", *("" for _ in table.names)]))
        group = row.group
        name = f"{row.name}, {row.unit}" if row.unit else row.name
        text.append(line([name, *(markdown(f"{cell.text} {cell.ratio}".rstrip()) for cell in row.cells)]))
    return "\n".join([*text, "", *(f"- {markdown(note)}" for note in table.notes)]).rstrip() + "\n"
