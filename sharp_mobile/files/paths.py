"""File names from untrusted files, and files that may be missing or unreadable."""

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sharp_mobile.errors import SharpError
from sharp_mobile.files.json_file import COPY_AGAIN

# The longest name that file systems accept.
_LONGEST_NAME = 255


def is_plain(name: str) -> bool:
    """Whether a name with forward slashes is relative, has no `..`, and has only printable characters."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and not name.startswith("/")
        and ".." not in parts
        and "\\" not in name
        and name.isprintable()
        and len(name.encode()) <= _LONGEST_NAME
    )


def file_part(text: str, default: str) -> str:
    """Turn a text into part of a file name: lower-case letters, digits and hyphens, at most 60 characters.

    Args:
        default: the result for a text without ASCII letters or digits.
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-") or default


def inside(directory: str | Path, name: str, source: str | Path, *, links_out: bool = False) -> Path:
    """The path of a plain relative name below a directory. The file need not exist.

    Symbolic links are followed, so a link that leaves the directory is refused. `links_out` allows it: the hub's cache
    consists of such links, and weights are only read.

    Args:
        directory: where the path must stay.
        name: the relative name, with forward slashes.
        source: the file that contains the name, for the message.

    Raises:
        SharpError: the name is absolute, empty, leaves the directory, or has unprintable characters.
    """
    if is_plain(name):
        if links_out:
            return Path(directory) / name
        root = Path(directory).resolve()
        try:
            resolved = (root / name).resolve()
        except (OSError, RuntimeError):  # a loop of links
            resolved = root
        if resolved != root and resolved.is_relative_to(root):
            return Path(directory) / name
    raise SharpError(f"{source}: names the file {name!r}, which is not inside {directory}; do not use this directory")


def is_regular_file(path: Path) -> bool:
    """Whether `path` is a regular file, links followed; False if it does not exist.

    Raises:
        SharpError: it is something else (a directory, a pipe, a broken link), or its type cannot be read.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # the last: a null byte in the name
        if path.is_symlink():
            raise SharpError(f"{path}: is a link to a missing file; copy the file itself") from error
        return False
    except OSError as error:
        raise SharpError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        what = "is a directory" if stat.S_ISDIR(mode) else "is not a regular file"
        raise SharpError(f"{path}: {what}; replace it with a regular file")
    return True


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; a pipe, which would block, is refused.

    Raises:
        SharpError: it is missing, not a regular file, or cannot be read, now or later in the `with` block.
    """
    if not is_regular_file(path):
        raise SharpError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise SharpError(f"{path}: cannot be read: {error.strerror or error}") from error


def cut_short(path: Path, size: int, needed: int) -> SharpError:
    """The error for a file of `size` bytes whose header requires `needed` bytes."""
    what = "cut short" if size < needed else "longer than its header says"
    return SharpError(f"{path}: {what}: has {size:,} bytes, needs {needed:,}; {COPY_AGAIN}")
