"""Runs that need the same recovered model make it once; a full disk loses nothing."""

import os
import resource
import signal
import threading
from pathlib import Path

import pytest
import yaml
from children import Child, command

from sharp_mobile.console import Console, reporting
from sharp_mobile.errors import SharpError
from sharp_mobile.files.outputs import replace_directory
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recovery.exclusive_writer import exclusive_writer
from sharp_mobile.recovery.run import recover

PREPARED = ("sharp.json", "model.safetensors")


def recipe(checkpoint: Path, text: Path) -> Recipe:
    warmup = {"text": str(text), "window": 32, "windows": 8}
    return Recipe(model=str(checkpoint), plan="2:3", recovery={"rank": 4}, warmup=warmup)


def make(kept: Path) -> None:
    with replace_directory(kept) as partial:
        for name in PREPARED:
            (partial / name).write_text('{"format_version": 1, "plan": "none", "layers": 6, "recovery": {}}')


def test_the_second_run_waits_says_for_whom_and_takes_what_the_first_made(tmp_path: Path) -> None:
    kept, lines, order = tmp_path / "work" / "m-1a2b", [], []
    waits = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        waits.set()

    def second() -> None:
        with reporting(Console(say=say)), exclusive_writer(kept) as missing:  # a new thread starts silent
            order.append(("second", missing))

    with exclusive_writer(kept) as missing:
        other = threading.Thread(target=second)
        other.start()
        assert waits.wait(10)
        order.append(("first", missing))
        make(kept)
    other.join(10)
    assert order == [("first", True), ("second", False)]
    (line,) = lines
    assert line.startswith(f"{kept}: process {os.getpid()} on ")
    assert "has been using it since " in line
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_after_a_run_that_failed_the_next_one_makes_it(tmp_path: Path) -> None:
    def fail() -> None:
        with exclusive_writer(tmp_path / "m"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []
    with exclusive_writer(tmp_path / "m") as missing:
        assert missing


def test_the_lock_of_a_killed_run_and_other_names_keep_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / "m.lock").write_text('{"pid": 1, "host": "here", "since": "long ago"}')
    with exclusive_writer(tmp_path / "m") as missing, exclusive_writer(tmp_path / "n") as other:
        assert (missing, other) == (True, True)
    assert list(tmp_path.iterdir()) == []


def test_what_stands_where_the_model_goes_is_told_before_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("mine")
    with (
        pytest.raises(SharpError, match="is not empty and was not written by sharp-mobile"),
        exclusive_writer(tmp_path / "m"),
    ):
        pytest.fail("the long work began")
    (tmp_path / "file").write_text("")
    with pytest.raises(SharpError, match=r"m\.lock: cannot be written"), exclusive_writer(tmp_path / "file" / "m"):
        pytest.fail("the long work began")


def test_a_full_disk_while_the_model_is_copied_is_one_line(
    tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    mine, out = recipe(tiny_checkpoint, tiny_text), tmp_path / "out"
    kept = recover(mine, None, work=tmp_path / "work")
    recover(mine, out, work=tmp_path / "work")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, ((kept / "model.safetensors").stat().st_size // 2, hard))
        with pytest.raises(SharpError, match=r"out: disk full after [\d,]+ bytes") as error:
            recover(mine, out, work=tmp_path / "work")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_kept_model_may_itself_be_the_output(tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path) -> None:
    mine = recipe(tiny_checkpoint, tiny_text)
    kept = recover(mine, None, work=tmp_path / "work")
    before = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert recover(mine, kept, work=tmp_path / "work") == kept
    assert {path: path.stat().st_mtime_ns for path in kept.iterdir()} == before


@pytest.mark.slow
def test_two_commands_at_once_make_one_model(tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe(tiny_checkpoint, tiny_text).model_dump()))
    children = [
        Child(command, "recover", "mine.yaml", "--quiet", "--out", name, directory=tmp_path) for name in ("one", "two")
    ]
    ended = [child.ended() for child in children]
    assert [child.status for child in ended] == [0, 0], ended
    assert sum("using the recovered model in" in child.stdout for child in ended) == 1
    (kept,) = (tmp_path / "build" / "recovered").iterdir()
    for name in ("one", "two"):
        assert (tmp_path / name / "model.safetensors").read_bytes() == (kept / "model.safetensors").read_bytes()
