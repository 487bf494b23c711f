import hashlib
import json
from pathlib import Path

import pytest

from sharp_mobile.errors import SharpError
from sharp_mobile.recovery.finetune.run_directory import RunDirectory


def write(run: RunDirectory, step: int) -> None:
    directory = run.partial / f"checkpoint-{step}"
    directory.mkdir(parents=True)
    (directory / "weights").write_text(f"weights of step {step}")
    (directory / "optimizer").write_text("momentum")
    run.seal(step)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run", keep=2)
    run.start({"rank": 4})
    return run


def test_the_newest_checkpoints_are_kept(run: RunDirectory) -> None:
    for step in (8, 9, 10):
        write(run, step)
    assert run.steps() == [9, 10]
    assert run.last_good() == (run.path / "checkpoint-10", ())
    assert not run.partial.exists()


# Names that lead out of the checkpoint, and what is no seal at all.
SEALS = (
    json.dumps({"../checkpoint-1/weights": hashlib.sha256(b"weights of step 1").hexdigest()}),
    json.dumps({"/dev/null": hashlib.sha256(b"").hexdigest()}),
    *("{}", "[]", "[" * 100_000, '{"weights": null}'),
)


@pytest.mark.parametrize("damage", ["truncated", "missing file", "changed", "no seal", "broken seal", *SEALS])
def test_a_damaged_checkpoint_is_passed_over(run: RunDirectory, damage: str) -> None:
    write(run, 1)
    write(run, 2)
    newest = run.path / "checkpoint-2"
    match damage:
        case "truncated":
            (newest / "weights").write_text("weights of")
        case "missing file":
            (newest / "optimizer").unlink()
        case "changed":
            (newest / "weights").write_text("weights of step 3")
        case "no seal":
            (newest / "sealed.json").unlink()
        case "broken seal":
            (newest / "sealed.json").write_text('{"weights": ')
        case seal:
            (newest / "sealed.json").write_text(seal)
    good, warnings = run.last_good()
    assert good == run.path / "checkpoint-1"
    assert len(warnings) == 1
    assert "checkpoint-2 is damaged" in warnings[0]
    run.discard_after(good)
    assert run.steps() == [1]


def test_what_was_being_written_when_a_run_was_killed_is_no_checkpoint(run: RunDirectory) -> None:
    write(run, 1)
    (run.partial / "checkpoint-2").mkdir(parents=True)
    (run.partial / "checkpoint-2" / "weights").write_text("half")
    assert run.last_good() == (run.path / "checkpoint-1", ())
    run.start({"rank": 4})
    assert not run.partial.exists()


def test_another_run_is_refused_and_named(run: RunDirectory) -> None:
    with pytest.raises(SharpError, match="rank was 4, now 8"):
        run.start({"rank": 8})
    (run.path / "run.json").write_text("{")
    with pytest.raises(SharpError, match=r"run\.json: is not valid JSON .*; delete .* to start over"):
        run.start({"rank": 4})


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, '"x"'])
def test_a_journal_that_is_no_object_is_told(content: str, run: RunDirectory) -> None:
    (run.path / "run.json").write_text(content)
    with pytest.raises(SharpError, match=r"run\.json: .*; delete .* to start over"):
        run.start({"rank": 4})


def test_a_name_that_is_no_step_is_left_alone(run: RunDirectory) -> None:
    for name in ("007", "9" * 200, "²", "x"):
        (run.path / f"checkpoint-{name}").mkdir()
    write(run, 1)
    assert run.steps() == [1]


def test_somebody_elses_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear Ada")
    with pytest.raises(SharpError, match="holds no run"):
        RunDirectory(tmp_path, keep=2).start({})
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(SharpError, match="cannot be written"):
        RunDirectory(tmp_path / "letter.txt", keep=2).start({})
