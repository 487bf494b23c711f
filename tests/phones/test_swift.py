"""The iPhone's benchmark on this computer: its core is built and tested, and benches a real `.pte`."""

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from phone_harnesses import (
    SPOILED,
    check_a_broken_export_is_told_in_its_results,
    check_a_real_pte_is_benched_and_answers_as_in_cpp,
    check_all_that_a_plan_can_ask_for,
    check_its_results_stand_beside_those_of_other_harnesses,
)
from project import PROJECT
from swift_tools import IOS_BENCH, run, swift

from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.results import read_results
from sharp_mobile.bench.runner import build_engine

pytestmark = pytest.mark.slow

NAME = "swift-linux"
FIXTURE = PROJECT / "tests" / "fixtures" / "results" / "swift.json"


@pytest.fixture(scope="session")
def sharp_bench() -> Path:
    """The program around the engine's C interface."""
    library = build_engine().resolve().parent
    package = IOS_BENCH / "HostBench"
    linked = ["-Xlinker", f"-L{library}", "-Xlinker", "-rpath", "-Xlinker", str(library)]
    swift(package, "swift", "build", "-c", "release", "-j", "1", *linked)
    return package / ".build" / "release" / "sharp-bench"


def test_the_cores_own_tests() -> None:
    output = swift(IOS_BENCH / "BenchCore", "swift", "test", "-j", "1")
    assert "Executed 0 tests" not in output
    assert "with 0 failures" in output


def test_the_results_that_swift_writes_are_the_checked_in_ones(tmp_path: Path) -> None:
    """Made by: cd ios_bench/BenchCore && swift run bench-fixture ../../tests/fixtures/results/swift.json"""
    swift(IOS_BENCH / "BenchCore", "swift", "run", "-j", "1", "bench-fixture", str(tmp_path / "swift.json"))
    assert (tmp_path / "swift.json").read_text() == FIXTURE.read_text()
    assert read_results(FIXTURE).settings.harness == "swift"


def test_a_real_pte_is_benched_and_answers_as_in_cpp(
    sharp_bench: Path, runner: Path, shared: Export, unshared: Export, tmp_path: Path
) -> None:
    harness = partial(run, sharp_bench)
    check_a_real_pte_is_benched_and_answers_as_in_cpp(harness, NAME, runner, (shared, unshared), tmp_path)


def test_all_that_a_plan_can_ask_for(sharp_bench: Path, shared: Export, tmp_path: Path) -> None:
    check_all_that_a_plan_can_ask_for(partial(run, sharp_bench), NAME, shared, tmp_path)


def test_its_results_stand_beside_those_of_other_harnesses(
    sharp_bench: Path, shared: Export, unshared: Export, tmp_path: Path
) -> None:
    harness = partial(run, sharp_bench)
    check_its_results_stand_beside_those_of_other_harnesses(harness, NAME, (shared, unshared), tmp_path)


@SPOILED
def test_a_broken_export_is_told_in_its_results(
    sharp_bench: Path, shared: Export, tmp_path: Path, spoil: Callable[[Path], None], told: str
) -> None:
    check_a_broken_export_is_told_in_its_results(partial(run, sharp_bench), NAME, shared, spoil, told, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "no export is named; usage: sharp-bench EXPORT…"),
        (("x", "--threads", "0"), "threads=0: write a whole number from 1 on"),
        (("x", "--threads-sweep", "all"), "threads_sweep=all: write whole numbers from 1 on, or performance, with"),
        (("x", "--threads"), "--threads: needs a value"),
        (("x", "--speed", "9"), "speed=9: is no option; the options are threads,"),
    ],
)
def test_a_wrong_command_is_told(sharp_bench: Path, arguments: tuple[str, ...], told: str) -> None:
    done = run(sharp_bench, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {told}")


def test_threads_compile() -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    command = [
        compiler,
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fsyntax-only",
        str(IOS_BENCH / "App/Threads.cpp"),
    ]
    assert subprocess.run(command, capture_output=True, text=True).stderr == ""


def test_every_file_is_formatted() -> None:
    directories = ["App", "AppTests", "BenchCore", "HostBench", "typecheck"]
    swift(IOS_BENCH, "swift", "format", "lint", "--strict", "--recursive", *directories)
