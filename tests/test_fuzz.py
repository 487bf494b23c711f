"""The fuzzer tells failures from answers and refusals, and makes the same input again from the same number."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import damaged_json, drawn
from fuzz_command import ANSWERED, REFUSED, Command, judged, run

WHOLE = Command("inspect", ("x",), whole=True)
COMMAND = Command("inspect", ("x",))


@pytest.mark.parametrize(
    ("status", "stderr", "outcome"),
    [
        (0, "", ANSWERED),
        (0, "warning: old\n", ANSWERED),
        (1, "error: x: is broken\n", REFUSED),
        (1, "warning: old\nerror: x: is broken\n", REFUSED),
        (1, "", "dirty: other lines on stderr"),
        (1, "error: a\nerror: b\n", "dirty: other lines on stderr"),
        (1, "error: a\nwarning: b\n", "dirty: other lines on stderr"),
        (0, "UserWarning: x\n", "dirty: other lines on stderr"),
        (0, "warning: \x1b[2J\n", "dirty: control characters"),
        (1, 'Traceback (most recent call last):\n  File "x"\nKeyError: 1\n', "traceback (status 1)"),
        (2, "Usage: x\n", "traceback (status 2)"),
        (-11, "", "crash (signal 11)"),
        (None, "", "hang"),
    ],
)
def test_how_a_command_ended(status: int | None, stderr: str, outcome: str) -> None:
    assert judged(COMMAND, status, 0, "", stderr) == outcome


def test_an_answer_about_a_damaged_file_that_its_manifest_describes_is_a_failure() -> None:
    assert judged(WHOLE, 0, 0, "", "") == "answered as whole"
    assert judged(WHOLE, 1, 0, "", "error: does not match its manifest\n") == REFUSED


def test_too_much_memory_is_a_failure() -> None:
    assert judged(COMMAND, 0, COMMAND.memory + 1, "", "") == "memory"


def test_a_number_makes_the_same_input_again() -> None:
    strategy = damaged_json({"a": [1, 2, 3], "b": {"c": "x"}})
    assert drawn(strategy, 3) == drawn(strategy, 3)
    assert len({drawn(strategy, number) for number in range(8)}) > 4


def test_a_command_runs_as_a_process_of_its_own(tmp_path: Path) -> None:
    ended = run(Command("inspect", (str(tmp_path / "none.pte"),)), tmp_path)
    assert (ended.outcome, ended.failed) == (REFUSED, False)
    assert ended.said == f"error: {tmp_path}/none.pte: cannot be read: no such file"
    assert ended.memory > 10**8


@pytest.mark.parametrize(
    ("action", "outcome"),
    [
        (lambda: 1 / 0, "traceback (status 1)"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "crash (signal 9)"),
        (lambda: time.sleep(60), "hang"),
        (lambda: Path("../beside").touch(), "dirty: files elsewhere changed"),
        (lambda: Path("out.partial-0123456789ab").mkdir(), "dirty: leftovers"),
        (lambda: tempfile.mkdtemp(), "dirty: temporary files left"),
        (lambda: subprocess.Popen(["sleep", "60"]), "left a process running"),
        (lambda: Path("out").touch(), ANSWERED),
    ],
)
def test_what_a_command_must_not_do(
    action: Callable[[], object], outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuzz_command.main", lambda arguments: action() and None)
    monkeypatch.setattr("fuzz_command.PATIENCE", 0.1)
    seconds = 0.5 if outcome == "hang" else 30.0
    assert run(Command("inspect", (), seconds=seconds), tmp_path).outcome == outcome
