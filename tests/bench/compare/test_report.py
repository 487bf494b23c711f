"""The page: whole, readable in light and dark, and nothing in it asks anything of the network."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tiny_exports import EMULATED, HOST, results, write_export

from sharp_mobile.bench.compare.measurements import Column
from sharp_mobile.bench.compare.report import page
from sharp_mobile.bench.compare.tables import compare
from sharp_mobile.bench.exports import identity
from sharp_mobile.bench.results import Condition, Results, Samples, Settings, Sweep, SweepCurve, SweepPoint, Window


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text without style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture
def columns(tmp_path: Path) -> list[Column]:
    original = identity(write_export(tmp_path / "original", shared=0, file_bytes=1_200_000, plan="none"))
    shared = identity(write_export(tmp_path / "shared", file_bytes=1_000_000))
    other = HOST.model_copy(update={"model": "another machine"})
    return [
        Column("original, host", "original", original, results(original)),
        Column("shared, host", "shared", shared, results(shared, speed=2)),
        Column("shared, other", "shared", shared, results(shared, other)),
        Column("shared, cortex-a76", "shared", shared, results(shared, EMULATED)),
    ]


def sweep(*started_at: tuple[Column, int]) -> Sweep:
    """A sweep of exports that start in so many MB."""

    def forward(limit: int, smallest: int) -> Samples | None:
        return None if limit < smallest else Samples(seconds=(10 / limit, 11 / limit))

    def curve(column: Column, smallest: int) -> SweepCurve:
        limits = (100, 200, 400)
        points = (SweepPoint(memory_limit=limit * 1_000_000, forward=forward(limit, smallest)) for limit in limits)
        return SweepCurve(export=column.export, points=tuple(points))

    settings = Settings(runtime="executorch 1.5.1", threads=1, weight_cache=True, packed_cache=True)
    return Sweep(device=HOST, settings=settings, curves=tuple(curve(*one) for one in started_at))


def test_nothing_in_the_page_is_fetched(columns: list[Column]) -> None:
    html = page(columns, [sweep((columns[0], 200))])
    assert "//" not in html  # no http://, no https://, no //host
    assert "@import" not in html
    found = Elements(html)
    assert {tag for tag, _ in found.elements} & {"script", "link", "img", "iframe", "object", "base"} == set()
    references = [
        value or ""
        for _, attributes in found.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "clip-path")
    ]
    assert references
    assert all(re.fullmatch(r"#\w+|url\(#\w+\)", reference) for reference in references)


def test_the_page_has_the_table_and_the_words(columns: list[Column]) -> None:
    text = Elements(page(columns)).text
    for row in compare(columns).rows:
        assert row.name in text
        assert all(cell.text in text for cell in row.cells)
    assert "On a machine (2 × a CPU, 8.0 GB of memory), Linux 6, at 2026-01-02T03:04:05Z." in text
    assert "Runs: first launch 3, later launch 3, forward 5, decode 2." in text
    assert "Emulated by QEMU as cortex-a76" in text
    assert "Instruction counts do not include the effects of memory, caches or clocks" in text
    assert "thermal" not in text  # nobody knew of it


def test_each_device_has_pictures_of_its_own(columns: list[Column]) -> None:
    def captions(html: str) -> list[str]:
        return [(attributes["aria-label"] or "") for tag, attributes in Elements(html).elements if tag == "svg"]

    assert captions(page(columns)) == [
        "Size of the .pte, MB",
        "Load on a machine, ms",
        "Forward pass of one token on a machine, ms (line: ± std)",
        "Tokens per second on a machine",
        "Resident memory on a machine, MB",
        "Load on another machine, ms",
        "Forward pass of one token on another machine, ms (line: ± std)",
        "Tokens per second on another machine",
        "Resident memory on another machine, MB",
        "Instructions of one token on cortex-a76, millions; not a time",
    ]
    assert captions(page([Column("shared", "shared", columns[1].export)])) == ["Size of the .pte, MB"]


def test_pictures_show_every_value_in_the_color_of_the_page(columns: list[Column]) -> None:
    html = page(columns[:2], [sweep((columns[0], 200), (columns[1], 100))])
    size, load, forward, speed, memory, swept = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    texts = [re.findall(r"<text[^>]*>([^<]*)</text>", svg) for svg in (size, load, forward, memory)]
    assert texts[0] == ["original", "shared", "1.2", "1.0"]
    assert texts[1] == ["original, host", "shared, host", "1,500", "75", "750", "38"]
    assert texts[2] == ["original, host", "shared, host", "12.0", "6.0"]
    assert texts[3] == ["original, host", "shared, host", "120", "70"]
    assert "memory limit, MB" in swept
    for svg in (size, load, forward, speed, memory, swept):
        assert "currentColor" in svg
        assert not re.search(r"#0{6}|#010203|fill: black|stroke: black", svg)
    assert "prefers-color-scheme: dark" in html


def test_a_sustained_run_is_a_line_of_its_tokens_per_second(columns: list[Column]) -> None:
    windows = tuple(Window(at=2.0 * end, tokens=20, seconds=float(end)) for end in (1, 2, 4))
    drawn = [replace(column, results=_sustained(column, windows)) for column in columns[:2]]
    html = page(drawn)
    figure = re.search(r"<figure><figcaption>Sustained decoding on a machine.*?</figure>", html, flags=re.DOTALL)
    assert figure
    assert all(f"</i>{column.name}</span>" in figure[0] for column in drawn)
    assert "tokens/s" in figure[0]
    assert "Fastest clock during the run: 1.50 to 2.00 GHz." in html
    assert "Thermal states during the run: nominal, fair." in html


def _sustained(column: Column, windows: tuple[Window, ...]) -> Results:
    assert column.results
    conditions = (
        Condition(at=0.0, thermal="nominal", clocks_hz=(10**9, 2 * 10**9)),
        Condition(at=2.0, thermal="fair", clocks_hz=(10**9, 15 * 10**8)),
    )
    return column.results.model_copy(update={"sustained": windows, "conditions": conditions})


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    export = identity(write_export(tmp_path / "tiny")).model_copy(update={"name": "<b>&\"' $x_y$ --></b>"})
    html = page([Column(export.name, export.name, export)])
    found = Elements(html)
    assert "b" not in {tag for tag, _ in found.elements}
    assert export.name in found.text


def test_the_same_results_make_the_same_page(columns: list[Column]) -> None:
    assert page(columns, [sweep((columns[0], 200))]) == page(columns, [sweep((columns[0], 200))])
