"""The results file: what is written can be read, and nothing else can."""

from importlib.resources import files
from pathlib import Path

import pytest
from results_example import results

from sharp_mobile.bench.results import (
    Samples,
    Sweep,
    SweepCurve,
    SweepPoint,
    json_schema,
    read_results,
    read_sweep,
    write_results,
)
from sharp_mobile.errors import SharpError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", results())
    assert read_results(tmp_path / "results.json") == results()


def test_a_sweep_is_a_file_of_its_own(tmp_path: Path) -> None:
    points = (SweepPoint(memory_limit=100, forward=None), SweepPoint(memory_limit=200, forward=Samples(seconds=(0.5,))))
    found, path = results(), tmp_path / "file.json"
    curve = SweepCurve(export=found.export, points=points)
    sweep = Sweep(device=found.device, settings=found.settings, curves=(curve, curve))
    path.write_text(sweep.model_dump_json())
    assert read_sweep(path) == sweep
    with pytest.raises(SharpError, match="run the benchmark again"):
        read_results(path)
    write_results(path, found)
    with pytest.raises(SharpError, match="curves: Field required"):
        read_sweep(path)


def test_statistics() -> None:
    found = results()
    assert found.forward is not None
    assert (found.forward.median, found.forward.minimum) == (0.02, 0.01)
    assert found.forward.mean == pytest.approx(0.02)
    assert found.forward.std == pytest.approx(0.0070710678)
    assert found.load.first is not None
    assert found.load.first.std == 0
    assert found.decode is not None
    assert found.decode.per_second == 20
    assert found.memory is not None
    assert found.memory.resident == 30


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is not valid JSON"),
        ('{"schema_version": 1, "created": "2026', "is not valid JSON"),
        ("[]", "has no schema version"),
        ('{"forward": 3}', "has no schema version"),
        ('{"schema_version": 0}', "has schema version 0, this sharp-mobile reads versions 1 to 2"),
        ('{"schema_version": 1}', "created: Field required"),
    ],
)
def test_what_is_no_results_file_is_refused(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(SharpError, match=told):
        read_results(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SharpError, match=r"none\.json: cannot be read: No such file"):
        read_results(tmp_path / "none.json")


@pytest.mark.parametrize("seconds", [(), (0.0,), (-1.0,), (float("nan"),)])
def test_a_time_that_nobody_measured_is_refused(seconds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="seconds"):
        Samples(seconds=seconds)


def test_the_schema_that_other_languages_hold_to_is_this_one() -> None:
    """Written by: python -m sharp_mobile.bench.results > sharp_mobile/bench/results.schema.json"""
    assert (files("sharp_mobile.bench") / "results.schema.json").read_text(encoding="utf-8") == json_schema()


def test_a_failed_benchmark_says_why(tmp_path: Path) -> None:
    failed = results().model_copy(update={"status": "failed", "error": "the system took the memory away"})
    write_results(tmp_path / "results.json", failed)
    assert read_results(tmp_path / "results.json") == failed
    for status, error in (("failed", None), ("ok", "something")):
        write_results(tmp_path / "results.json", results().model_copy(update={"status": status, "error": error}))
        with pytest.raises(SharpError, match="has an error"):
            read_results(tmp_path / "results.json")
