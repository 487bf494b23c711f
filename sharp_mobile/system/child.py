"""A child process for work on an untrusted file, which may crash it, hang it or exhaust its memory.

    parent  ── request (JSON) ──►  child, with a memory limit
            ◄── answer (JSON, bytes) ──  or it ends by a signal, or is killed at the time limit

The child is a new interpreter: a fork of a process with PyTorch's threads can deadlock.
"""

import contextlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType

from sharp_mobile.errors import SharpError

# An answer: a JSON value, and bytes that are sent with it.
Answer = tuple[object, bytes]
Handler = Callable[[dict[str, object]], Answer]

_START_SECONDS = 180.0  # importing PyTorch and ExecuTorch takes 4 s, much longer on a busy machine


class ChildError(Exception):
    """A child gave no answer. The text is a predicate: 'ended with SIGSEGV'."""


class Child:
    """A child process that answers requests; killed when it is closed or garbage-collected.

    Args:
        server: the function that the child runs, as 'module:function'. It takes a descriptor and the memory limit, and
            passes them to `serve`.
        memory: bytes of data that the child may allocate. macOS does not enforce it.
    """

    def __init__(self, server: str, *, memory: int) -> None:
        self._memory = memory
        self._connection, theirs = Pipe()
        self._scratch = tempfile.TemporaryDirectory(prefix="sharp-mobile-")  # ours: a killed child cannot delete one
        module, _, function = server.partition(":")
        arguments = f"{theirs.fileno()}, {memory}"
        # With -I and the parent's import paths the child runs the same code as the parent from any directory.
        code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import {function} as f; f({arguments})"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "TMPDIR": self._scratch.name},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # so that Ctrl-C reaches only the parent, which kills the child's children too
            )
        self._end = weakref.finalize(self, _end, self._process, self._connection)
        self._receive(_START_SECONDS)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the child can answer another request."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._end()
        self._scratch.cleanup()

    def ask(self, request: dict[str, object], seconds: float) -> Answer:
        """Send a request and return its answer.

        Raises:
            ChildError: the child crashed, gave no answer in time, ran out of memory, or the request failed.
            SharpError: the child's handler raised it.
        """
        try:
            self._connection.send_bytes(json.dumps(request).encode())
        except OSError:
            raise ChildError(self._how_it_ended()) from None
        return self._receive(seconds)

    def _receive(self, seconds: float) -> Answer:
        try:
            if not self._connection.poll(seconds):
                self.close()
                raise ChildError(f"gave no answer in {math.ceil(seconds)} s")
            answer, data = json.loads(self._connection.recv_bytes()), self._connection.recv_bytes()
        except (EOFError, OSError):
            raise ChildError(self._how_it_ended()) from None
        if "refused" in answer:
            raise SharpError(answer["refused"])
        if "memory" in answer:
            raise ChildError(f"needs more than its memory limit of {self._memory / 1e9:.1f} GB")
        if "failed" in answer:
            raise ChildError(answer["failed"])
        return answer["answer"], data

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            status = 0
        self.close()
        limit = f"its memory limit was {self._memory / 1e9:.1f} GB"
        if status < 0:
            with contextlib.suppress(ValueError):
                return f"ended with {signal.Signals(-status).name} ({limit})"
        return f"ended with exit status {status} ({limit})"


def _end(process: "subprocess.Popen[bytes]", connection: Connection) -> None:
    connection.close()
    if process.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def serve(descriptor: int, memory: int, handler: Callable[[], Handler]) -> None:
    """The child's side: answer requests until the parent closes the connection.

    Args:
        handler: imports the modules that requests need, and returns the function that handles them.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # a lower limit is already set
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (memory, memory))
    with Connection(descriptor) as connection:
        handle = handler()
        _send(connection, {"answer": None})
        while True:
            try:
                request = json.loads(connection.recv_bytes())
            except EOFError:
                return
            answer, data = _answered(handle, request)
            _send(connection, answer, data)


def _answered(handle: Handler, request: dict[str, object]) -> Answer:
    try:
        answer, data = handle(request)
        return {"answer": answer}, data
    except SharpError as error:
        return {"refused": str(error)}, b""
    except MemoryError:
        return {"memory": True}, b""
    except Exception as error:
        return {"failed": _one_line(error)}, b""


def _send(connection: Connection, answer: object, data: bytes = b"") -> None:
    connection.send_bytes(json.dumps(answer).encode())
    connection.send_bytes(data)


def _one_line(error: Exception) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:500] if first else type(error).__name__
