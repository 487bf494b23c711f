"""Latency against memory: a number where the model runs, none where it is killed, and a picture of both."""

from pathlib import Path

import pytest
from reported import recorded

from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.options import BenchOptions
from sharp_mobile.bench.results import read_sweep
from sharp_mobile.bench.sweep import sweep, write_sweep


@pytest.mark.slow
def test_a_sweep_has_a_point_for_every_limit_and_export(
    limits_allowed: None, shared: Export, unshared: Export, tmp_path: Path
) -> None:
    limits = (60 << 20, 3 << 20, 30 << 20)
    plan = BenchOptions(repetitions=2, forwards=2)
    with recorded() as report:
        measured = sweep([shared, unshared], limits, plan, tmp_path / "packed")
    assert [curve.export for curve in measured.curves] == [shared.identity, unshared.identity]
    for curve in measured.curves:
        assert [point.memory_limit for point in curve.points] == sorted(limits)
        killed, *run = [point.forward for point in curve.points]
        assert killed is None
        assert [len(forward.seconds) for forward in run if forward is not None] == [4, 4]
    assert sum("was killed" in line for line in report.lines) == 2
    picture = write_sweep(tmp_path / "sweep.json", measured)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert read_sweep(tmp_path / "sweep.json") == measured
