"""Names of files that come out of a file which somebody else wrote, and files that may be missing or unreadable."""

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sharp_mobile.errors import SharpError
from sharp_mobile.files.json_file import COPY_AGAIN

# The longest that file systems take for one name.
_LONGEST_NAME = 255


def is_plain(name: str) -> bool:
    """Whether a name with forward slashes is relative, leads nowhere upwards, and has no character that hides it."""
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
    """A text as a part of a file's name: small letters, digits and hyphens, 60 at most.

    Args:
        default: for a text without letters and digits of ASCII.
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-") or default


def inside(directory: str | Path, name: str, source: str | Path, *, links_out: bool = False) -> Path:
    """The path of a plain relative name below a directory.

    Symbolic links are followed, so a link that leaves the directory is refused, too, unless `links_out`: the hub's
    cache consists of such links, and weights are only read. The file need not exist.

    Args:
        directory: where the name must stay.
        name: as `source` gives it, with forward slashes.
        source: the file that names it, for the message.

    Raises:
        SharpError: the name is absolute, empty, leaves the directory, or has characters that no file name should have.
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
    """Whether a regular file is there, links followed; False if nothing is.

    Raises:
        SharpError: something else is there (a directory, a pipe, a link to nothing), or it cannot be looked at.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # the last: a null byte in the name
        if path.is_symlink():
            raise SharpError(f"{path}: is a link to a file that is not there; copy the file itself") from error
        return False
    except OSError as error:
        raise SharpError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        what = "is a directory" if stat.S_ISDIR(mode) else "is not a regular file"
        raise SharpError(f"{path}: {what}; a regular file must be in its place")
    return True


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file; never one that blocks, such as a pipe.

    Raises:
        SharpError: it is not there, not a regular file, or cannot be read, now or later in the `with` block.
    """
    if not is_regular_file(path):
        raise SharpError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise SharpError(f"{path}: cannot be read: {error.strerror or error}") from error


def cut_short(path: Path, size: int, needed: int) -> SharpError:
    """The error for a file of `size` bytes whose header says `needed`."""
    what = "cut short" if size < needed else "longer than its header says"
    return SharpError(f"{path}: {what}: has {size:,} bytes, needs {needed:,}; {COPY_AGAIN}")
