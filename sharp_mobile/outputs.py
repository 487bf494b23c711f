"""Directories that are written whole or not at all.

    out/                 what is there now, untouched until the new one is whole
    out.partial-1234/    what is being written (1234: the process), deleted on any failure
    out.old-1234/        for the moment of the two renames

A reader never sees half an export, and an interrupted run costs nothing but its own work.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sharp_mobile.errors import SharpError

# A directory that holds one of these was written by us, so it may be replaced.
MERGED_JSON = "merged.json"
OUR_MARKERS = ("manifest.json", "sharp.json", MERGED_JSON)

# A file-size limit or a quota stops a write as a full disk does, and the way out is the same.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_writable(path: str | Path, *, needed: int = 0) -> Path:
    """Find out before the long work whether a directory can be written at `path` in the end.

    Args:
        path: the directory to be written; its parents are created.
        needed: bytes that will be written at least.

    Returns:
        The path, absolute and with symbolic links followed.

    Raises:
        SharpError: it is a file, a mount point or a non-empty directory of somebody else's, its parent cannot be
            written, or the disk has less than `needed` bytes free.
    """
    target = Path(path).expanduser().resolve()
    try:
        _check_replaceable(path, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Really written, because root in a container is told "writable" about read-only mounts.
        probe = _sibling(target, "probe")
        probe.write_bytes(b"?")
        probe.unlink()
    except OSError as error:
        if _is_disk_full(error):
            raise _disk_full(target.parent) from error
        raise SharpError(f"{path}: cannot be written: {error.strerror}; choose another output directory") from error
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise SharpError(f"{path}: needs {needed:,} bytes and {free:,} are free; make room or choose another disk")
    return target


def _check_replaceable(path: str | Path, target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise SharpError(f"{path}: is a file; choose a directory")
    if target.is_mount():
        raise SharpError(f"{path}: is a mount point and cannot be replaced; choose a directory inside it")
    if any(target.iterdir()) and not any((target / marker).is_file() for marker in OUR_MARKERS):
        raise SharpError(f"{path}: is not empty and was not written by sharp-mobile; delete it or choose another")


@contextmanager
def replace_directory(path: str | Path, *, needed: int = 0) -> Iterator[Path]:
    """Write a directory under a temporary name; rename it over `path` when the block ends without an exception.

    On any exception, `KeyboardInterrupt` included, the temporary directory is deleted and what was at `path` stays.

    Args:
        needed: bytes that will be written at least.

    Yields:
        The temporary directory, empty, beside `path` (so on the same disk).

    Raises:
        SharpError: `path` cannot be written (see `check_writable`), or the disk is full.
    """
    target = check_writable(path, needed=needed)
    partial = _sibling(target, "partial")
    partial.mkdir()
    try:
        yield partial
        _swap(partial, target)
    except Exception as error:
        if _is_disk_full(error):
            raise _disk_full(target, written=_bytes_in(partial), needed=needed) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; its directory is created.

    Raises:
        SharpError: it cannot be written, or the disk is full.
    """
    partial = _sibling(path, "partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        if _is_disk_full(error):
            raise _disk_full(path.parent) from error
        raise SharpError(f"{path}: cannot be written: {error.strerror}; choose another place") from error
    finally:
        partial.unlink(missing_ok=True)


def _swap(partial: Path, target: Path) -> None:
    """Rename `partial` over `target`; a directory that was there goes only after the new one is in its place."""
    old = _sibling(target, "old")
    if not target.exists():
        partial.rename(target)
        return
    target.rename(old)
    try:
        partial.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sibling(target: Path, kind: str) -> Path:
    """A name beside `target` that no other process uses; not hidden, so that what a killed run leaves is seen."""
    return target.with_name(f"{target.name}.{kind}-{os.getpid()}")


def _is_disk_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL
    # safetensors reports its I/O errors as text: "I/O error: No space left on device (os error 28)".
    match = re.search(r"\(os error (\d+)\)", str(error))
    return match is not None and int(match[1]) in _DISK_FULL


def _disk_full(path: Path, *, written: int = 0, needed: int = 0) -> SharpError:
    of = f" of {needed:,}" if needed else ""
    free = shutil.disk_usage(path.parent if not path.is_dir() else path).free
    return SharpError(
        f"{path}: disk full after {written:,}{of} bytes ({free:,} free, or a quota or file size limit); "
        "make room or choose another disk"
    )


def _bytes_in(directory: Path) -> int:
    total = 0
    for file in directory.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total
