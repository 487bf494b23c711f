"""Read a `.pte` of unknown origin in a child process, which may crash, hang or take all memory.

The limits are far above what a sound file needs: 4 GB and four times its size of memory (its weights, as packed by
XNNPACK, and its cache), and minutes. (`isolated_program` runs one under the same limits.)
"""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from sharp_mobile.errors import SharpError
from sharp_mobile.system.child import Answer, Child, ChildError, serve
from sharp_mobile.verify.inspect import Inspection, inspect_pte

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11

SECONDS = 120.0
_MEMORY, _MEMORY_TIMES = 4_000_000_000, 4
_READ_BYTES_A_SECOND = 5_000_000  # hashing and parsing; reads from a slow disk


class Isolated:
    """A `.pte` in a separate process.

    Args:
        server: what the child runs, as 'module:function'; see `Child`.
    """

    def __init__(self, pte: Path, server: str) -> None:
        self._pte = pte
        self._bytes = pte.stat().st_size
        self._child = Child(server, memory=_MEMORY + _MEMORY_TIMES * self._bytes)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._child.close()

    def reading_seconds(self) -> float:
        """How long reading the whole file may take."""
        return SECONDS + self._bytes / _READ_BYTES_A_SECOND

    def ask(self, doing: str, request: dict[str, object], seconds: float) -> Answer:
        """The child's answer to a request; `doing` says what it is asked for, for messages ("reading").

        Raises:
            SharpError: as the child's handler raised it, or it crashes or exceeds its limits.
        """
        try:
            return self._child.ask(request, seconds)
        except ChildError as error:
            raise SharpError(
                f"{self._pte}: {doing} it in a separate process failed: {error}; the file may be damaged: copy or "
                "export it again"
            ) from error


def inspect_isolated(pte: Path, names: dict[str, str]) -> Inspection:
    """As `inspect_pte`, in a child process.

    Raises:
        SharpError: as `inspect_pte`, and if the inspection crashes or exceeds its limits.
    """
    with Isolated(pte, f"{__name__}:serve_inspection") as isolated:
        answer, _ = isolated.ask("reading", {"file": str(pte), "names": names}, isolated.reading_seconds())
    return Inspection.model_validate(answer)


def serve_inspection(descriptor: int, memory: int) -> None:
    """Inspect a file; what the child process runs."""
    serve(descriptor, memory, lambda: _inspect)


def _inspect(request: dict[str, object]) -> Answer:
    match request:
        case {"file": str(file), "names": dict(names)}:
            return inspect_pte(file, names).model_dump(mode="json"), b""
    raise ValueError("not a request to inspect a file")
