"""Run one command of sharp-mobile as a process of its own, and judge how it ended.

    fork ──► in its own directory, output into files, `main(arguments)` ──► status, time, memory, output, changed files

A fork, because importing PyTorch takes seconds and a run has thousands of commands.
"""

import atexit
import contextlib
import ctypes
import os
import re
import sys
import tempfile
import time
import traceback
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil
from damage import assert_text, contents

from sharp_mobile.bench.bundle import bundle
from sharp_mobile.cli import main
from sharp_mobile.errors import SharpError
from sharp_mobile.files.printable import one_printable_line, printable

_LEFTOVER = re.compile(r".*(\.partial-[0-9a-f]+|\.old-[0-9a-f]+|\.lock)$")
_PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 5.0  # seconds for the processes that a command started, to end after it

ANSWERED, REFUSED = "answered", "refused"  # every other outcome is a failure


@dataclass(frozen=True)
class Command:
    """A command and what it may take.

    seconds, memory: more is a failure; bytes. whole: its input says what it has to be (SHA-256) and isn't, so that an
    answer is a failure.
    """

    verb: str
    arguments: tuple[str, ...]
    seconds: float = 60.0
    memory: int = 2_000_000_000
    whole: bool = False


@dataclass(frozen=True)
class Ended:
    """How a command ended. output: of both streams, cut."""

    outcome: str
    seconds: float
    memory: int
    output: str

    @property
    def said(self) -> str:
        """The last line of its output."""
        return (self.output.splitlines() or [""])[-1]

    @property
    def failed(self) -> bool:
        return self.outcome not in (ANSWERED, REFUSED)


def run(command: Command, place: Path) -> Ended:
    """Run a command in `place/<verb>`; everything else in `place` has to stay as it is.

    Args:
        place: a case's directory.
    """
    work, scratch = place / command.verb, place / "scratch"
    for directory in (work, scratch):
        directory.mkdir(exist_ok=True)
    before = contents(place, work, scratch)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _run(command, work, scratch)
    status, memory = _wait(child, command.seconds)
    seconds = time.monotonic() - began
    out, err = (scratch / name for name in ("stdout", "stderr"))
    stdout, stderr = (path.read_bytes().decode(errors="surrogateescape") for path in (out, err))
    found = judged(command, status, memory, stdout, stderr)
    if found in (ANSWERED, REFUSED):
        found = _files_problem(before, contents(place, work, scratch), place, scratch) or found
    return Ended(found, seconds, memory, f"{stdout[-2000:]}{stderr[-4000:]}")


def judged(command: Command, status: int | None, memory: int, stdout: str, stderr: str) -> str:
    """The outcome by exit status (negative: the signal; None: it was killed at the time limit), memory and output."""
    if status is None:
        return "hang"
    if status == _LEFT_RUNNING:
        return "left a process running"
    if status < 0:
        return f"crash (signal {-status})"
    if "Traceback (most recent call last)" in stderr or status not in (0, 1):
        return f"traceback (status {status})"
    if memory > command.memory:
        return "memory"
    try:
        assert_text(stdout + stderr)
    except AssertionError:
        return "dirty: control characters"
    lines = [line for line in stderr.splitlines() if not line.startswith("warning: ")]
    if (status == 0 and lines) or (
        status == 1 and not (len(lines) == 1 and lines[0].startswith("error: ") and stderr.splitlines()[-1] == lines[0])
    ):
        return "dirty: other lines on stderr"
    if status == 0 and command.whole:
        return "answered as whole"
    return REFUSED if status else ANSWERED


def _files_problem(before: dict[Path, str], after: dict[Path, str], place: Path, scratch: Path) -> str | None:
    if before != after:
        return "dirty: files elsewhere changed"
    if any(_LEFTOVER.match(path.name) for path in place.rglob("*") if not path.is_relative_to(scratch / "cache")):
        return "dirty: leftovers"
    if any((scratch / "tmp").iterdir()):
        return "dirty: temporary files left"
    return None


# The command's side


def _run(command: Command, work: Path, scratch: Path) -> NoReturn:
    """As `python -m sharp_mobile.cli` would: leave by the exit status, after everything registered for it."""
    status = 1
    try:
        weakref.finalize._registry.clear()  # type: ignore[attr-defined]  # what the parent has to end isn't ours
        atexit._clear()
        for number, name in ((1, "stdout"), (2, "stderr")):
            descriptor = os.open(scratch / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, number)
            os.close(descriptor)
        for directory in ("home", "cache", "tmp"):
            (scratch / directory).mkdir(exist_ok=True)
        os.environ.update(HOME=str(scratch / "home"), XDG_CACHE_HOME=str(scratch / "cache"))
        os.environ["TMPDIR"] = tempfile.tempdir = str(scratch / "tmp")
        if command.verb == "prepack":
            os.environ["PATH"] = str(scratch)  # no emulator: what comes before it is of interest, and takes no minutes
        os.chdir(work)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        with contextlib.suppress(AttributeError, OSError):  # Linux alone: the command's own children come back to us
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        status = _status(command)
        weakref.finalize._exitfunc()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        running = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=PATIENCE)[1]
        for process in running:
            process.kill()
        status = _LEFT_RUNNING if running else status
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


_LEFT_RUNNING = 77


def _status(command: Command) -> int:
    try:
        if command.verb == "bundle":
            _bundle(*command.arguments)
        else:
            main([command.verb, *command.arguments])
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1 if error.code else 0
    return 0


def _bundle(directory: str) -> None:
    """`python -m sharp_mobile.bench.bundle`, into another directory than the app's."""
    try:
        print(printable(str(bundle(Path(directory), Path("Models")))))
    except SharpError as error:
        print(f"error: {one_printable_line(str(error))}", file=sys.stderr)
        sys.exit(1)


# The other side


def _wait(child: int, seconds: float) -> tuple[int | None, int]:
    """Exit status, and the peak of its memory or, if that is more, of the processes that it started."""
    for pause in _pauses(seconds):
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), _bytes(usage.ru_maxrss)
        time.sleep(pause)
    _end_all(child)
    usage = os.wait4(child, 0)[2]
    return None, _bytes(usage.ru_maxrss)


def _pauses(seconds: float) -> Iterator[float]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield 0.01


def _end_all(child: int) -> None:
    """Kill a command and what it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(child)
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def _bytes(ru_maxrss: int) -> int:
    return ru_maxrss if sys.platform == "darwin" else ru_maxrss * 1024
