"""The error a user can act on."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class SharpError(Exception):
    """A wrong input, told in one line: which file or field, what is wrong with it, and the way out.

    The command line prints it without a traceback and exits with status 1.
    """


def first_problem(error: "ValidationError", *within: str) -> str:
    """The first of pydantic's complaints as `field: what is wrong`, the field's path beginning with `within`."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in (*within, *first["loc"])) or "the file"
    return f"{where}: {first['msg']}"


def one_line(error: BaseException) -> str:
    """The first line that is not empty of another library's message, cut to 300 characters; its type if it has none."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= 300 else line[:297] + "..."
