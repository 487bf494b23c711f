"""Tests of how the costs of an export are measured and shown."""

import subprocess
import sys
from pathlib import Path

import pytest

from sharp_mobile.bench.stock.export import HEADER, Cost, Usage, cpu_ratio, row, run_child
from sharp_mobile.errors import SharpError

MEGABYTE = 10**6


def cost(exporter: str, cpu: float) -> Cost:
    """A cost of which only the CPU seconds matter."""
    return Cost(exporter, Usage(2 * cpu, cpu, 800 * MEGABYTE), 94 * MEGABYTE)


# Measured from a small process, as in use: the peak memory of a child starts at its parent's.
PEAKS = """
import subprocess
import sys
from pathlib import Path
from sharp_mobile.bench.stock.export import run_child

allocate = "x = bytearray(300_000_000)"
grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{allocate}'], check=True)"
for program in ("", allocate, grandchild):
    usage = run_child([sys.executable, "-c", program], Path(sys.argv[1]))
    print(usage.peak_bytes, usage.cpu_seconds > 0, usage.wall_seconds > 0)
"""


def test_peak_memory_is_that_of_a_child_and_its_children(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PEAKS, str(tmp_path / "log")], check=True, capture_output=True)
    usages = [line.split() for line in done.stdout.decode().splitlines()]
    nothing, child, grandchild = (int(peak) for peak, *_ in usages)
    assert nothing < 100 * MEGABYTE
    assert 300 * MEGABYTE < child < 400 * MEGABYTE
    assert 300 * MEGABYTE < grandchild < 400 * MEGABYTE
    assert all(times == ["True", "True"] for _, *times in usages)


def test_a_child_runs_where_it_should_on_one_thread_and_its_words_are_kept(tmp_path: Path) -> None:
    program = "import os; print(os.getcwd(), os.environ['OMP_NUM_THREADS'])"
    run_child([sys.executable, "-c", program], tmp_path / "log", directory=tmp_path)
    assert (tmp_path / "log").read_text().split() == [str(tmp_path), "1"]


def test_a_child_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(SharpError, match=r"log: .*status 3; its last line: disk on fire$"):
        run_child([sys.executable, "-c", "print('disk on fire'); raise SystemExit(3)"], tmp_path / "log")


def test_the_ratio_is_of_medians() -> None:
    costs = [cost("sharp-mobile", cpu) for cpu in (10.0, 20.0, 90.0)]
    costs += [cost("export_llm", cpu) for cpu in (100.0, 900.0, 60.0)]
    assert cpu_ratio(costs) == pytest.approx(5.0)


def test_a_row_stands_under_its_header() -> None:
    assert row(cost("export_llm", 969.04)).split() == ["export_llm", "1938.1", "969.0", "800", "94,000,000"]
    assert len(row(cost("export_llm", 969.04))) == len(HEADER)
