"""The error a user can act on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class SharpError(Exception):
    """A wrong input, in one line: which file or field, what is wrong with it, and what to do.

        >>> from sharp_mobile import SharpError, load_recipe
        >>> try:
        ...     load_recipe("my-model", plan="2:3", group_size=48)
        ... except SharpError as error:
        ...     print(error)
        my-model: quantize.group_size: Input should be 32, 64 or 128, not 48

    The command line prints it without a traceback and exits with status 1.
    """


def first_problem(error: "ValidationError", *within: str) -> str:
    """The first of pydantic's complaints as `field: what is wrong`, the field's path beginning with `within`."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in (*within, *first["loc"])) or "the file"
    return f"{_cut(where)}: {_cut(first['msg'])}"


def one_line(error: BaseException) -> str:
    """Another library's message in one line of at most 300 characters; its type if it has none.

    It is the first line that is not empty, and the next one, too, where the first ends in a colon: it says why there.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return _cut(" ".join(lines[:2]) if lines[0].endswith(":") else lines[0])


def joined(text: object) -> str:
    """A text of maybe several lines in one, of at most 300 characters."""
    return " ".join(str(text).split())[:300]


def _cut(text: str, length: int = 300) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


@contextmanager
def prefixed(path: Path) -> Iterator[None]:
    """Put the file before a message that cannot know it."""
    try:
        yield
    except SharpError as error:
        raise SharpError(f"{path}: {error}") from error
