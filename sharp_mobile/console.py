"""What a run reports: lines, warnings and progress bars.

Functions report with `say`, `warn` and `progress_bar`. Nothing is shown unless a caller asks for it with `reporting`,
as the command line does, and `progress=True` of a public function. Like `logging`, this is not a parameter of every
function on the way, because no result depends on it.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import NoReturn, TypeVar, overload

from tqdm import tqdm

_Item = TypeVar("_Item")


def _nothing(line: str) -> None:
    pass


@dataclass(frozen=True)
class Console:
    """Where a run reports.

    Attributes:
        say: receives lines of progress and results.
        warn: receives warnings, a line each, without the word "warning".
        bars: whether to show progress bars, if standard error is a terminal.
    """

    say: Callable[[str], None] = _nothing
    warn: Callable[[str], None] = _nothing
    bars: bool = False


_SILENT = Console()
_console: ContextVar[Console] = ContextVar("console", default=_SILENT)


@contextmanager
def reporting(console: Console) -> Iterator[None]:
    """Report to this console within the block; functions called from other threads stay silent."""
    token = _console.set(console)
    try:
        yield
    finally:
        _console.reset(token)


@contextmanager
def silence() -> Iterator[None]:
    """Report nothing within the block."""
    with reporting(_SILENT):
        yield


@contextmanager
def without_bars() -> Iterator[None]:
    """Report lines and warnings, but show no progress bars within the block."""
    with reporting(replace(_console.get(), bars=False)):
        yield


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Within the block warnings are collected, and not shown."""
    outer, warnings = _console.get(), list[str]()
    with reporting(Console(outer.say, warnings.append, outer.bars)):
        yield warnings


def say(line: str) -> None:
    """Report a line, or several."""
    _console.get().say(line)


def warn(line: str) -> None:
    """Report a warning; the console adds the word."""
    _console.get().warn(line)


def shows_bars() -> bool:
    """Whether progress bars are shown: they are asked for, and standard error is a terminal."""
    return _console.get().bars and sys.stderr.isatty()


@overload
def progress_bar(
    items: Iterable[_Item],
    *,
    desc: str | None = None,
    unit: str = "it",
    unit_scale: bool = False,
    total: int | None = None,
) -> "tqdm[_Item]": ...


@overload
def progress_bar(
    *, desc: str | None = None, unit: str = "it", unit_scale: bool = False, total: int | None = None, initial: int = 0
) -> "tqdm[NoReturn]": ...


def progress_bar(
    items: Iterable[_Item] | None = None,
    *,
    desc: str | None = None,
    unit: str = "it",
    unit_scale: bool = False,
    total: int | None = None,
    initial: int = 0,
) -> "tqdm[_Item] | tqdm[NoReturn]":
    """A `tqdm` progress bar over items, or one that is moved by hand; shown if `shows_bars()`."""
    return tqdm(
        items,
        desc=desc,
        unit=unit,
        unit_scale=unit_scale,
        total=total,
        initial=initial,
        disable=not shows_bars(),
    )
