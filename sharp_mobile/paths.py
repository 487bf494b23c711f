"""Names of files that come out of a file which somebody else wrote: an index, a manifest, a results file."""

import re
from pathlib import Path, PurePosixPath

from sharp_mobile.errors import SharpError

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
