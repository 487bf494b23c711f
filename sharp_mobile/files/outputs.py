"""Directories and files that are written whole or not at all.

    out/                           what is there now, untouched until the new one is whole
    out.partial-0123456789ab/      what is being written, deleted on any failure
    out.old-0123456789ab/          for the moment of the two renames

A reader never sees half an export, and an interrupted run costs nothing but its own work. The two temporary directories
are locked by the process that made them. Where it was killed, the next one that writes to the same place finds them
unlocked: it deletes the one, and puts the other back if nothing has taken its place.
"""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sharp_mobile.errors import SharpError
from sharp_mobile.files.json_file import fields_of
from sharp_mobile.files.locks import lock_directory
from sharp_mobile.files.ownership import LEFTOVER, check_ours, is_ours

# A file-size limit or a quota stops a write as a full disk does, and the way out is the same.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_writable(path: str | Path, *, needed: int = 0, sources: Iterable[str | Path] = ()) -> Path:
    """Find out before the long work whether a directory can be written at `path` in the end.

    Args:
        path: the directory to be written; its parents are created.
        needed: bytes that will be written at least.
        sources: what is read, files or directories; a source that does not exist (a hub id) is passed over.

    Returns:
        The path, absolute and with symbolic links followed.

    Raises:
        SharpError: it is a file, a mount point or holds files that sharp-mobile did not write; it is a source, above
            one or inside one; its parent cannot be written, or the disk has less than `needed` bytes free.
    """
    try:
        target = Path(path).expanduser().resolve()
        for source in sources:
            check_apart(target, source)
        _clear_leftovers(target)
        _check_replaceable(path, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Really written, because root in a container is told "writable" about read-only mounts.
        with _partial_of(target) as probe:
            (probe / "probe").write_bytes(b"?")
        free = shutil.disk_usage(target.parent).free
    except RuntimeError as error:  # a loop of symbolic links, or no home directory
        raise SharpError(f"{path}: is not a path ({error}); choose another output directory") from error
    except OSError as error:
        if is_disk_full(error):
            raise _disk_full(target.parent) from error
        raise SharpError(f"{path}: cannot be written: {error.strerror}; choose another output directory") from error
    if free < needed:
        raise SharpError(f"{path}: needs {needed:,} bytes and {free:,} are free; make room or choose another disk")
    return target


def check_apart(target: Path, source: str | Path) -> None:
    """Refuse to write a directory where replacing it, or writing it, changes what it is made from.

    Args:
        target: with symbolic links followed.
        source: a file or directory; one that does not exist is passed over.

    Raises:
        SharpError: `target` is the source, above it or inside it.
    """
    given = Path(source).expanduser()
    try:
        resolved = given.resolve(strict=True)
    except (OSError, RuntimeError):
        return
    if _is_same(target, resolved):
        raise SharpError(f"{target}: is the source itself, and would be replaced; choose another output directory")
    if any(_is_same(target, parent) for parent in (*given.absolute().parents, *resolved.parents)):
        raise SharpError(f"{target}: holds the source {source}, and would be replaced; choose another output directory")
    if any(_is_same(parent, resolved) for parent in target.parents):
        raise SharpError(f"{target}: is inside the source {source}; choose an output directory outside it")


def check_file(path: Path, *, sources: Iterable[Path] = (), field: str | None = None) -> None:
    """Find out before the long work whether a file can be written at `path` in the end.

    Args:
        path: the file to be written; its parents are created.
        sources: what is read: files, or directories that sharp-mobile wrote, whose files are sources too.
        field: one that every JSON file of this kind has; a file without it is not replaced.

    Raises:
        SharpError: it is a directory, a source or not of this kind, or cannot be written.
    """
    with _partial_beside(path) as (partial, target):
        _check_regular(path, target)
        for source in sources:
            inside = target.exists() and _is_same(target.parent, source) and is_ours(target)
            if _is_same(target, source) or (inside and field is None):
                raise SharpError(f"{path}: is read by this command, and would be replaced; choose another file")
        if field is not None and target.exists() and field not in fields_of(target):
            raise SharpError(
                f"{path}: was not written by sharp-mobile (it has no field {field}), so it is not replaced; "
                "delete it, or choose another file"
            )
        (partial / "probe").write_bytes(b"?")


def _check_regular(path: Path, target: Path) -> None:
    if target.is_dir():
        raise SharpError(f"{path}: is a directory; name a file")
    if target.exists() and not target.is_file():
        raise SharpError(f"{path}: is not a regular file, and would be replaced; name a file")


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, also by another spelling on a disk that ignores case."""
    try:
        return one == other or os.path.samefile(one, other)
    except OSError:
        return False


def _check_replaceable(path: str | Path, target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise SharpError(f"{path}: is a file; choose a directory")
    if target.is_mount():
        raise SharpError(f"{path}: is a mount point and cannot be replaced; choose a directory inside it")
    check_ours(target)


@contextmanager
def replace_directory(path: str | Path, *, needed: int = 0, sources: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Write a directory under a temporary name; rename it over `path` when the block ends without an exception.

    On any exception, `KeyboardInterrupt` included, the temporary directory is deleted and what was at `path` stays.

    Args:
        needed: bytes that will be written at least.
        sources: what is read; see `check_writable`.

    Yields:
        The temporary directory, empty, beside `path` (so on the same disk).

    Raises:
        SharpError: `path` cannot be written (see `check_writable`), or the disk is full.
    """
    target = check_writable(path, needed=needed, sources=sources)
    with _partial_of(target) as partial:
        try:
            yield partial
            _swap(partial, target)
        except Exception as error:
            if is_disk_full(error):
                raise _disk_full(target, written=_bytes_in(partial), needed=needed) from error
            raise


@contextmanager
def create_directory(path: Path) -> Iterator[Path]:
    """Write a directory that always has the same content: where another process is faster, its directory stays.

    Yields:
        The temporary directory, which becomes `path` when the block ends.

    Raises:
        SharpError: it cannot be written, or the disk is full.
    """
    with _partial_beside(path) as (partial, target):
        yield partial
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():
                raise


def replace_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; its directory is created.

    Raises:
        SharpError: it cannot be written, or the disk is full.
    """
    try:
        with replace_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Write a file under a temporary path; rename it over `path` when the block ends without an exception.

    Yields:
        The temporary path, which has the name of `path`, in a directory of its own.

    Raises:
        SharpError: its directory cannot be written, or the disk is full.
    """
    with _partial_beside(path) as (partial, target):
        _check_regular(path, target)
        yield partial / target.name
        (partial / target.name).replace(target)


@contextmanager
def _partial_beside(path: Path) -> Iterator[tuple[Path, Path]]:
    """A temporary directory beside a path, and that path with symbolic links followed, so that a link stays a link."""
    with ExitStack() as stack:
        try:
            target = path.resolve()
            _clear_leftovers(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = stack.enter_context(_partial_of(target))
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            yield partial, target
        except Exception as error:
            if is_disk_full(error):
                raise _disk_full(target.parent, written=_bytes_in(partial)) from error
            raise


def copy_directory(source: Path, target: Path) -> None:
    """Copy the files of a directory into another one, which exists. Unlike shutil's copy, it stops at a full disk."""
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(exist_ok=True)
        else:
            shutil.copyfile(path, copy)


def _swap(partial: Path, target: Path) -> None:
    """Rename `partial` over `target`; a directory that was there goes only after the new one is in its place."""
    while True:
        try:
            # Locked, so that no other process takes it for a leftover between the renames, or replaces it now, too.
            descriptor = lock_directory(target)
        except FileNotFoundError:
            try:
                partial.rename(target)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    continue  # another process was faster
                raise
            return
        try:
            check_ours(target)
            _swap_locked(partial, target)
        finally:
            _close(descriptor)
        return


def _swap_locked(partial: Path, target: Path) -> None:
    old = _sibling(target, "old")
    try:
        target.rename(old)
        partial.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    _discard(old, target)


def _clear_leftovers(target: Path) -> None:
    """Delete what processes that were killed left beside `target`; put back what one was replacing."""
    try:
        siblings = sorted(target.parent.iterdir())
    except OSError:
        return
    for sibling in siblings:
        leftover = LEFTOVER.fullmatch(sibling.name)
        if leftover is None or leftover[1] != target.name:
            continue
        with suppress(OSError):  # not a directory, or another process was faster
            descriptor = lock_directory(sibling, wait=False)
            if descriptor is None:
                continue
            try:
                if leftover[2] == "old" and not target.exists():
                    sibling.rename(target)
                else:
                    _discard(sibling, target)
            finally:
                _close(descriptor)


def _discard(directory: Path, target: Path) -> None:
    """Delete a directory that was written for `target`; a half deleted one must never be put back."""
    rubbish = _sibling(target, "partial")
    directory.rename(rubbish)
    shutil.rmtree(rubbish, ignore_errors=True)


@contextmanager
def _partial_of(target: Path) -> Iterator[Path]:
    """A new directory beside `target`, locked; deleted at the end, unless it has been renamed."""
    while True:
        partial = _sibling(target, "partial")
        partial.mkdir()
        # Before it is locked, another process may delete it as a leftover.
        with suppress(FileNotFoundError):
            descriptor = lock_directory(partial)
            break
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _close(descriptor)


def _sibling(target: Path, kind: str) -> Path:
    """A random name beside `target`; not hidden, so that what a killed run leaves is seen."""
    return target.with_name(f"{target.name}.{kind}-{secrets.token_hex(6)}")


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for lack of room: on the disk, in a quota or below a file size limit."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _DISK_FULL
    # safetensors reports its I/O errors as text: "I/O error: No space left on device (os error 28)"; shutil.copytree
    # collects those of all files: "[Errno 28] No space left on device".
    numbers = re.findall(r"\(os error (\d+)\)|\[Errno (\d+)\]", str(error))
    return any(int(rust or python) in _DISK_FULL for rust, python in numbers)


def _disk_full(path: Path, *, written: int = 0, needed: int = 0) -> SharpError:
    of = f" of {needed:,}" if needed else ""
    free = shutil.disk_usage(path.parent if not path.is_dir() else path).free
    return SharpError(
        f"{path}: disk full after {written:,}{of} bytes ({free:,} free, or a quota or file size limit); "
        "make room or choose another disk"
    )


def _unwritable(path: Path, error: OSError) -> SharpError:
    if is_disk_full(error):
        return _disk_full(path.parent)
    return SharpError(f"{path}: cannot be written: {error.strerror}; choose another place")


def _bytes_in(directory: Path) -> int:
    total = 0
    for file in directory.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total
