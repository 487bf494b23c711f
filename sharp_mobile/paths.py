"""Names of files that come out of a file which somebody else wrote: an index, a manifest, a results file."""

from pathlib import Path, PurePosixPath

from sharp_mobile.errors import SharpError


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
    parts = PurePosixPath(name).parts
    plain = bool(parts) and not name.startswith("/") and ".." not in parts and "\\" not in name and name.isprintable()
    if plain:
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
