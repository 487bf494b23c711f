"""A comparison as one self-contained HTML page.

    pictures   size; for each device load, forward pass, memory, instructions; memory sweeps
    table      the table that `compare` prints
    words      an explanation of each metric, and the device and settings of each column

Style and pictures are inline, light and dark follow the reader's system, and the page fits on a phone.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files

from sharp_mobile.bench.compare.measurements import Column
from sharp_mobile.bench.compare.pictures import COLORS, Bars, bar_picture, sustained_picture, sweep_picture
from sharp_mobile.bench.compare.tables import DESCRIPTION, Table, compare, known
from sharp_mobile.bench.results import Condition, Results, Samples, Sweep
from sharp_mobile.files.printable import html_text

STYLE = files("sharp_mobile.bench.compare").joinpath("report.css")


def page(columns: Sequence[Column], sweeps: Sequence[Sweep] = ()) -> str:
    """The HTML page of columns and memory sweeps."""
    title = " vs. ".join(dict.fromkeys(column.label for column in columns))
    labels = {column.export.sha256: column.label for column in columns}
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html_text(title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head><body>",
        f"<h1>{html_text(title)}</h1>",
        '<div class="pictures">',
        *_pictures(columns),
        *(_sweep(sweep, labels) for sweep in sweeps),
        "</div>",
        *_table(compare(columns)),
        *_explanation(columns),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _table(table: Table) -> Iterator[str]:
    yield '<div class="wide"><table><thead><tr><td></td>'
    yield "".join(f'<th scope="col">{html_text(name)}</th>' for name in table.names) + "</tr></thead>"
    group = ""
    for row in table.rows:
        if row.group != group:
            yield f'<tbody><tr><th class="group" colspan="{len(table.names) + 1}">{html_text(row.group)}</th></tr>'
            group = row.group
        name = html_text(f"{row.name}, {row.unit}" if row.unit else row.name)
        kind = ' class="words"' if row.group == DESCRIPTION else ""
        cells = (f"<td>{html_text(cell.text)} <small>{html_text(cell.ratio)}</small></td>" for cell in row.cells)
        yield f'<tr{kind}><th scope="row">{name}</th>{"".join(cells)}</tr>'
    yield "</table></div>"
    yield from (f'<p class="note">{html_text(note)}</p>' for note in table.notes)


def _pictures(columns: Sequence[Column]) -> Iterator[str]:
    sizes = [Bars(label, (size / 1e6,)) for label, size in {c.label: c.export.file_bytes for c in columns}.items()]
    yield _figure("Size of the .pte, MB", bar_picture(sizes, decimals=1))
    for device in _devices(columns):
        yield from _device_pictures(device)


def _devices(columns: Sequence[Column]) -> list[list[Column]]:
    """The measured columns, grouped by device: times of different devices are not in the same picture."""
    devices: list[list[Column]] = []
    for column in columns:
        if column.results is None:
            continue
        for device in devices:
            if device[0].on_same_device(column):
                device.append(column)
                break
        else:
            devices.append([column])
    return devices


def _device_pictures(columns: Sequence[Column]) -> Iterator[str]:
    """Pictures of columns from one device, for the metrics that were measured."""
    results = [(column.name, column.results) for column in columns if column.results]
    on = f"on {results[0][1].device.model}"

    def milliseconds(samples: Samples | None) -> float | None:
        return None if samples is None else samples.median * 1e3

    loads = [
        Bars(name, (milliseconds(r.load.first), milliseconds(r.load.later), milliseconds(r.load.cold)))
        for name, r in results
        if r.load.first or r.load.later or r.load.cold
    ]
    if loads:
        launches = ("first launch", "later launch", "cold")
        yield _figure(f"Load {on}, ms", bar_picture(loads), launches)
    waits = [
        Bars(name, (milliseconds(r.first_token.first), milliseconds(r.first_token.later)))
        for name, r in results
        if r.first_token.first or r.first_token.later
    ]
    if waits:
        yield _figure(f"Time to first token {on}, ms", bar_picture(waits), ("first launch", "later launch"))
    forwards = [
        Bars(name, (r.forward.median * 1e3,), (r.forward.std * 1e3,)) for name, r in results if r.forward is not None
    ]
    if forwards:
        yield _figure(f"Forward pass of one token {on}, ms (line: ± std)", bar_picture(forwards, decimals=1))
    speeds = [Bars(name, _rates(r)) for name, r in results if any(_rates(r))]
    if speeds:
        yield _figure(f"Tokens per second {on}", bar_picture(speeds, decimals=1), ("prefill", "decode"))
    sustained = [(name, r.sustained) for name, r in results if r.sustained]
    if sustained:
        names = [name for name, _ in sustained]
        yield _figure(f"Sustained decoding {on}", sustained_picture([windows for _, windows in sustained]), names)
    memory = [
        Bars(name, (r.memory.anonymous / 1e6, r.memory.file / 1e6)) for name, r in results if r.memory is not None
    ]
    if memory:
        pages = ("anonymous", "pages of files")
        yield _figure(f"Resident memory {on}, MB", bar_picture(memory, stacked=True), pages)
    counts = [
        Bars(name, (r.counts.forward.instructions / 1e6,)) for name, r in results if r.counts and r.counts.forward
    ]
    if counts:
        yield _figure(f"Instructions of one token {on}, millions; not a time", bar_picture(counts, decimals=1))


def _rates(results: Results) -> tuple[float | None, ...]:
    """Tokens per second of prefill and decode."""
    return tuple(None if samples is None else samples.per_second for samples in (results.prefill, results.decode))


def _sweep(sweep: Sweep, labels: Mapping[str, str]) -> str:
    exports = [curve.export for curve in sweep.curves]
    names = [f"{labels.get(e.sha256, e.name)} ({e.file_bytes / 1e6:.1f} MB)" for e in exports]
    where = f"{sweep.device.model}, threads: {sweep.settings.threads}"
    title = f"Forward pass of one token within a memory limit on {where} (×: killed)"
    return _figure(title, sweep_picture(sweep), names)


def _figure(title: str, svg: str, legend: Sequence[str] = ()) -> str:
    keys = (
        f'<span><i style="background:{color}"></i>{html_text(label)}</span>'
        for label, color in zip(legend, COLORS * len(legend), strict=False)
    )
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{html_text(title)}"', 1)
    return f"<figure><figcaption>{html_text(title)} {''.join(keys)}</figcaption>{svg}</figure>"


def _explanation(columns: Sequence[Column]) -> Iterator[str]:
    yield "<h2>Metrics</h2><dl>"
    # Explain each kind of instructions once, not for every part of the work.
    terms = {f"{figure.group.partition(',')[0]}: {figure.name}": figure.how for figure in known(columns)}
    for term, how in terms.items():
        yield f"<dt>{html_text(term)}</dt><dd>{html_text(how)}</dd>"
    yield "</dl>"
    measured = [(column.name, column.results) for column in columns if column.results]
    if measured:
        yield "<h2>Devices and settings</h2><dl>"
        for name, results in measured:
            yield f"<dt>{html_text(name)}</dt><dd>{html_text(' '.join(_sentences(results)))}</dd>"
        yield "</dl>"


def _during(conditions: Sequence[Condition]) -> Iterator[str]:
    """The states of the device during the run."""
    thermal = list(dict.fromkeys(condition.thermal for condition in conditions if condition.thermal))
    if thermal:
        yield f"Thermal states during the run: {', '.join(thermal)}."
    fastest = [max(condition.clocks_hz) / 1e9 for condition in conditions if condition.clocks_hz]
    if fastest:
        yield f"Fastest clock during the run: {min(fastest):.2f} to {max(fastest):.2f} GHz."


def _sentences(results: Results) -> Iterator[str]:
    device, settings = results.device, results.settings
    memory = "" if device.memory_bytes is None else f", {device.memory_bytes / 1e9:.1f} GB of memory"
    where = "Emulated by QEMU as" if device.kind == "arm64" else "On"
    yield f"{where} {device.model} ({device.cores} × {device.cpu}{memory}), {device.os}, at {results.created}."
    states = [
        f"{name} {state}" for name, state in (("thermal state", device.thermal), ("battery", device.battery)) if state
    ]
    if states:
        yield f"{'; '.join(states).capitalize()}."
    yield from _during(results.conditions)
    cache = "packs a shared weight once" if settings.weight_cache else "packs every use of a weight separately"
    disk = "stored on disk between launches" if settings.packed_cache else "not stored on disk"
    limit = "" if settings.memory_limit is None else f", in at most {settings.memory_limit / 1e6:,.0f} MB of memory"
    yield f"{settings.runtime}, threads: {settings.threads}{limit}. XNNPACK {cache}; packed weights are {disk}."
    runs = {
        "first launch": results.load.first,
        "first token": results.first_token.later,
        "later launch": results.load.later,
        "cold": results.load.cold,
        "forward": results.forward,
        "prefill": results.prefill,
        "decode": results.decode,
    }
    counted = [f"{name} {len(samples.seconds)}" for name, samples in runs.items() if samples is not None]
    if counted:
        yield f"Runs: {', '.join(counted)}."
    if results.counts is not None:
        yield "Instruction counts do not include the effects of memory, caches or clocks, so they are not times."
