"""The fuzzer tells failures from answers and refusals, and makes the same input again from the same number."""

import pytest
from damage import damaged_json, drawn
from fuzz_command import ANSWERED, REFUSED, Command, judged

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
    assert judged(WHOLE, 1, 0, "", "error: is not the file of its manifest\n") == REFUSED


def test_too_much_memory_is_a_failure() -> None:
    assert judged(COMMAND, 0, COMMAND.memory + 1, "", "") == "memory"


def test_a_number_makes_the_same_input_again() -> None:
    strategy = damaged_json({"a": [1, 2, 3], "b": {"c": "x"}})
    assert drawn(strategy, 3) == drawn(strategy, 3)
    assert len({drawn(strategy, number) for number in range(8)}) > 4
