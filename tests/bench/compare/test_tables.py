"""Comparisons: what is shown, what has a ratio, and what is no comparison at all."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from project import PROJECT
from results_example import fixture
from tiny_exports import EMULATED, HOST, count, results, write_export

from sharp_mobile.bench.compare.measurements import Column, read_columns
from sharp_mobile.bench.compare.metrics import metrics_of
from sharp_mobile.bench.compare.tables import MISSING, OTHER_DEVICE, Cell, Table, as_markdown, as_text, compare
from sharp_mobile.bench.exports import identity
from sharp_mobile.bench.results import Counts, Load, Memory, Samples, TokenSamples, write_results
from sharp_mobile.cli import main
from sharp_mobile.errors import SharpError
from sharp_mobile.files.digests import sha256_of
from sharp_mobile.verify.manifest import MeasuredPerplexity


@pytest.fixture
def exports(tmp_path: Path) -> tuple[Path, Path]:
    """Two exports, measured on the same host and under the same emulation; the second is twice as fast."""
    directories = tmp_path / "original", tmp_path / "shared"
    for directory, shared, size, speed in zip(directories, (0, 200), (1200, 1000), (1.0, 2.0), strict=True):
        export = identity(write_export(directory, shared=shared, file_bytes=size))
        write_results(directory / "results-arm64.json", results(export, EMULATED, speed=speed))
        write_results(directory / "results-host.json", results(export, speed=speed))
    return directories


def cells(table: Table, group: str, name: str) -> tuple[Cell, ...]:
    (found,) = [row.cells for row in table.rows if (row.group, row.name) == (group, name)]
    return found


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare", *(str(argument) for argument in arguments)])


def test_a_column_for_each_place_that_an_export_was_measured_in(exports: tuple[Path, Path]) -> None:
    table = compare(read_columns(exports))
    assert table.names == ("original, cortex-a76", "original, host", "shared, cortex-a76", "shared, host")
    assert cells(table, "size", ".pte") == (
        Cell("1,200"),
        Cell("1,200"),
        Cell("1,000", "×0.833"),
        Cell("1,000", "×0.833"),
    )
    missing = Cell(MISSING)
    assert cells(table, "one token", "forward, median") == (missing, Cell("12.00"), missing, Cell("6.00", "×0.500"))
    assert cells(table, "one token", "forward, mean ± std") == (
        missing,
        Cell("12.06 ± 0.27"),
        missing,
        Cell("6.03 ± 0.14", "×0.500"),
    )
    assert cells(table, "tokens per second", "decode")[3] == Cell("158.0", "×2.000")
    assert cells(table, "memory", "resident")[1:4:2] == (Cell("120.0"), Cell("70.0", "×0.583"))
    assert cells(table, "instructions, one token", "executed") == (
        Cell("1,000,000"),
        missing,
        Cell("500,000", "×0.500"),
        missing,
    )
    assert cells(table, "instructions, one token", "matmul")[2] == Cell("0")  # no ratio to nothing


def test_what_nobody_measured_is_left_out(exports: tuple[Path, Path]) -> None:
    rows = {(row.group, row.name) for row in compare(read_columns(exports)).rows}
    assert ("load", "later launch") in rows
    assert ("load", "cold") not in rows
    assert ("tokens per second", "prefill") not in rows
    assert ("instructions, prefill", "executed") not in rows


def test_a_perplexity_is_of_the_file_that_it_was_measured_with(exports: tuple[Path, Path]) -> None:
    for directory, value in zip(exports, (24.0, 30.0), strict=True):
        sha256 = sha256_of(directory / "model.pte")
        kept = MeasuredPerplexity(sha256=sha256, perplexity=value, text="a", windows=2, window=8, tokens=14)
        (directory / "perplexity.json").write_text(kept.model_dump_json())
    first, second = (cells(compare(read_columns(exports)), "quality", "perplexity")[i] for i in (0, 2))
    assert (first, second) == (Cell("24.0"), Cell("30.0", "×1.250"))
    other = kept.model_copy(update={"sha256": "of another file"})
    (exports[1] / "perplexity.json").write_text(other.model_dump_json())
    assert cells(compare(read_columns(exports)), "quality", "perplexity")[2] == Cell(MISSING)
    (exports[1] / "perplexity.json").write_text("{")
    with pytest.raises(SharpError, match=r"perplexity\.json: .*run sharp-mobile evaluate"):
        read_columns(exports)


def test_an_export_that_was_not_measured_has_sizes(tmp_path: Path) -> None:
    write_export(tmp_path / "tiny")
    table = compare(read_columns([tmp_path / "tiny"]))
    assert table.names == ("tiny",)
    assert {row.group for row in table.rows} == {"description", "size", "quality"}
    assert table.notes == ()


def test_different_devices_have_no_ratio(tmp_path: Path) -> None:
    export = identity(write_export(tmp_path / "tiny"))
    other = HOST.model_copy(update={"model": "another machine"})
    warmer = HOST.model_copy(update={"thermal": "warm", "os": "Linux 7"})
    columns = [
        Column(name, "tiny", export, results(export, d)) for name, d in (("a", HOST), ("b", other), ("c", warmer))
    ]
    table = compare(columns)
    assert [cell.ratio for cell in cells(table, "one token", "forward, median")] == ["", OTHER_DEVICE, "×1.000"]
    assert [cell.ratio for cell in cells(table, "memory", "peak")] == ["", OTHER_DEVICE, "×1.000"]
    assert any("of different devices have no ratio" in note for note in table.notes)


def test_other_settings_and_warnings_are_told(tmp_path: Path) -> None:
    export = identity(write_export(tmp_path / "tiny"))
    one = results(export)
    settings = one.settings.model_copy(update={"threads": 2, "weight_cache": False, "memory_limit": 330_000_000})
    changes = {"settings": settings, "decode": TokenSamples(seconds=(1.0,), tokens=32)}
    two = one.model_copy(update={**changes, "warnings": ("token 3 differs",)})
    notes = compare([Column("one", "tiny", export, one), Column("two", "tiny", export, two)]).notes
    assert (
        "two was measured differently from one: threads 2, there 1; weight cache off, there on; memory limit 330 MB, "
        "there none; decode of 32 tokens, there of 64 tokens." in notes
    )
    assert "two: token 3 differs" in notes


def test_units_and_digits_suit_the_values(tmp_path: Path) -> None:
    export = identity(write_export(tmp_path / "tiny"))

    def shown(*seconds: float) -> list[str]:
        columns = [
            Column(str(s), "tiny", export, results(export).model_copy(update={"forward": Samples(seconds=(s,))}))
            for s in seconds
        ]
        (row,) = [row for row in compare(columns).rows if row.name == "forward, median"]
        return [row.unit, *(cell.text for cell in row.cells)]

    assert shown(1.5, 0.0123) == ["s", "1.5000", "0.0123"]
    assert shown(0.229, 0.0146) == ["ms", "229.0", "14.6"]
    assert shown(0.0002) == ["µs", "200"]


def test_every_figure_has_its_place_in_the_results(tmp_path: Path) -> None:
    export = identity(write_export(tmp_path / "tiny"))
    parts = dict.fromkeys(("load_first", "load_later", "forward", "prefill"), count(1000))
    samples = Samples(seconds=(1.0,))
    complete = results(
        export,
        load=Load(first=samples, later=samples, cold=samples),
        prefill=TokenSamples(seconds=(1.0,), tokens=8),
        counts=Counts(**parts),
        **everything_of_phones(),
    )
    column = Column("tiny", "tiny", export, complete, perplexity=20.0)
    metrics = metrics_of([column])
    assert [metric.name for metric in metrics if metric.of(column) is None] == []
    names = {metric.name: metric.of(column) for metric in metrics}
    assert (names["decode at depth 4"], names["prefill, 2 threads"], names["decode, 2 threads"]) == (20.0, 32.0, 20.0)
    assert (names["sustained"], names["mAh per 1,000 tokens"]) == (16.0, 5.0)


def everything_of_phones() -> dict[str, Any]:
    """The measurements of the example of all languages; and a battery that loses 100 µAh in 20 tokens."""
    example = fixture("python")
    names = ("first_token", "token_latency", "decode_at_depth", "threads_sweep", "sustained", "memory")
    (condition,) = example.conditions
    charges = ((0.25, 300), (1.5, 200))
    conditions = tuple(condition.model_copy(update={"at": at, "charge_uah": left}) for at, left in charges)
    idle = Memory(anonymous=1, file=2, peak=3, footprint=2)
    return {**{name: getattr(example, name) for name in names}, "conditions": conditions, "idle_memory": idle}


def test_results_of_another_pte_are_refused(exports: tuple[Path, Path]) -> None:
    original, shared = exports
    (shared / "results-host.json").write_bytes((original / "results-host.json").read_bytes())
    with pytest.raises(SharpError, match=r"results-host\.json: was measured with another \.pte than shared's.*delete"):
        read_columns([shared])


def test_a_pte_that_was_changed_is_refused(exports: tuple[Path, Path]) -> None:
    pte = exports[0] / "model.pte"
    pte.write_bytes(pte.read_bytes()[:-1] + b"?")
    with pytest.raises(SharpError, match=r"model\.pte: does not match its manifest.*export the model again"):
        read_columns(exports)
    pte.unlink()
    with pytest.raises(SharpError, match=r"model\.pte: is missing"):
        read_columns(exports)


def test_columns_of_one_name_are_told_apart(exports: tuple[Path, Path], tmp_path: Path) -> None:
    file = exports[0] / "results-host.json"
    names = [column.name for column in read_columns([file, file, file])]
    assert names == ["original, host", "original, host, sharp-runner", "original, host, sharp-runner (2)"]
    write_export(tmp_path / "elsewhere" / "shared", file_bytes=1100)
    found = read_columns([*exports[1:], tmp_path / "elsewhere" / "shared"])
    assert [(c.label, c.name) for c in found] == [
        ("shared", "shared, cortex-a76"),
        ("shared", "shared, host"),
        ("shared (2)", "shared (2)"),
    ]


def test_text_and_markdown_have_every_figure(exports: tuple[Path, Path]) -> None:
    table = compare(read_columns(exports))
    text, markdown = as_text(table).splitlines(), as_markdown(table).splitlines()
    for row in table.rows:
        assert any(line.startswith(f"  {row.name}") and all(cell.text in line for cell in row.cells) for line in text)
        assert any(
            line.startswith(f"| {row.name}") and all(cell.text in line for cell in row.cells) for line in markdown
        )
    assert {line.count("|") for line in markdown if line.startswith("|")} == {6}


def test_the_command_writes_what_it_shows(exports: tuple[Path, Path], tmp_path: Path) -> None:
    result = run(*exports, "--markdown", tmp_path / "table.md", "--html", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    table = compare(read_columns(exports))
    assert result.stdout == as_text(table) + "\n"
    assert (tmp_path / "table.md").read_text() == as_markdown(table)
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    result = run(tmp_path, "--html", tmp_path / "page.html")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}: is not an export's directory")
    assert not (tmp_path / "page.html").exists()
    assert "none.json: cannot be read" in run(tmp_path / "none.json").stderr


def test_a_comparison_needs_no_pytorch(exports: tuple[Path, Path], tmp_path: Path) -> None:
    script = (
        "import sys; from sharp_mobile.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "print(sorted({'torch', 'executorch', 'transformers'} & sys.modules.keys()))"
    )
    arguments = ["compare", *map(str, exports), "--html", str(tmp_path / "page.html")]
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path)}
    child = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=PROJECT, env=environment
    )
    assert child.stdout.splitlines()[-1] == "[]", child.stderr
