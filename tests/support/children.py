"""Child processes that start with PyTorch and this package imported, for which a new interpreter takes seconds.

    test process ── starts once ──► fork server, which imports ── forks ──► child: a function, or a command

The fork server does nothing but import, so no child inherits a thread, a lock or a tensor. What depends on how a user
starts Python, or on what is imported, needs a new interpreter: `subprocess`.
"""

import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(["sharp_mobile.pipeline", "sharp_mobile.cli"])
_PATIENCE = 600.0


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit status, negative for a signal, and what it wrote."""

    status: int
    stdout: str
    stderr: str


class Child:
    """A process that calls `function(*arguments)`, of which modules in tests/support and the package can be had there.

    Args:
        directory: where it runs; by default where the test process does.
        environment: variables that it has besides.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: object,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="child-")
        self._output = Path(self._scratch.name)
        given = (self._output, directory or Path.cwd(), {**os.environ, **(environment or {})}, function, arguments)
        self._process = FORK_SERVER.Process(target=_run, args=given)
        self._process.start()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def send(self, signal: int) -> None:
        """Send it a signal, unless it has ended."""
        assert self._process.pid is not None
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal)

    def ended(self) -> Ended:
        """Wait for its end."""
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        status = self._process.exitcode
        assert status is not None
        stdout, stderr = ((self._output / name).read_text() for name in ("stdout", "stderr"))
        self._scratch.cleanup()
        return Ended(status, stdout, stderr)


def _run(
    output: Path,
    directory: Path,
    environment: Mapping[str, str],
    function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        with (output / name).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    function(*arguments)


def command(*arguments: object) -> None:
    """`sharp-mobile` with these arguments, to be called in a child."""
    from sharp_mobile.cli import main

    main([str(argument) for argument in arguments])


def ranks(function: Callable[..., object], *arguments: object, directory: Path | None = None) -> list[Ended]:
    """Call `function(*arguments)` in two processes that know of each other as torchrun's do, until both have ended.

    Raises:
        AssertionError: one of them failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    children = [
        Child(function, *arguments, directory=directory, environment={**known, "RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    found = [child.ended() for child in children]
    assert [ended.status for ended in found] == [0, 0], "\n".join(ended.stderr[-3000:] for ended in found)
    return found
