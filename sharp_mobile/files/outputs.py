"""Atomic writes of directories and files: complete or not at all.

    out/                           the current directory, unchanged until the new one is complete
    out.partial-0123456789ab/      the new directory while it is written, deleted on any failure
    out.old-0123456789ab/          the replaced directory, between the two renames

A reader never sees half an export, and an interrupted run loses only its own work. The process that creates the two
temporary directories locks them. If it is killed, the next run that writes to the same place finds them unlocked: it
deletes the partial one, and restores the old one if `out` is missing.
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

# A file-size limit or a quota stops a write like a full disk, and the way out is the same.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_writable(path: str | Path, *, needed: int = 0, sources: Iterable[str | Path] = ()) -> Path:
    """Check before the long work that a directory can be written at `path`.

    Args:
        path: the directory to be written; its parents are created.
        needed: the least number of bytes that will be written.
        sources: files or directories that the run reads; a source that does not exist (a hub id) is skipped.

    Returns:
        The path, absolute and with symbolic links followed.

    Raises:
        SharpError: `path` is a file, a mount point or holds files that sharp-mobile did not write; it is a source,
            above one or inside one; its parent cannot be written, or the disk has less than `needed` bytes free.
    """
    try:
        target = Path(path).expanduser().resolve()
        for source in sources:
            check_apart(target, source)
        _clear_leftovers(target)
        _check_replaceable(path, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Write a file, because `os.access` calls a read-only mount writable for root in a container.
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
    """Refuse an output directory if writing it would change its source.

    Args:
        target: the output directory, with symbolic links followed.
        source: a file or directory; one that does not exist is skipped.

    Raises:
        SharpError: `target` is the source, above it or inside it.
    """
    unresolved = Path(source).expanduser()
    try:
        resolved = unresolved.resolve(strict=True)
    except (OSError, RuntimeError):
        return
    if _is_same(target, resolved):
        raise SharpError(f"{target}: is the source itself, and would be replaced; choose another output directory")
    if any(_is_same(target, parent) for parent in (*unresolved.absolute().parents, *resolved.parents)):
        raise SharpError(f"{target}: holds the source {source}, and would be replaced; choose another output directory")
    if any(_is_same(parent, resolved) for parent in target.parents):
        raise SharpError(f"{target}: is inside the source {source}; choose an output directory outside it")


def check_file(path: Path, *, sources: Iterable[Path] = (), field: str | None = None) -> None:
    """Check before the long work that a file can be written at `path`.

    Args:
        path: the file to be written; its parents are created.
        sources: files that the run reads, or directories that sharp-mobile wrote, whose files are sources too.
        field: a field that every JSON file of this kind has; a file without it is not replaced.

    Raises:
        SharpError: `path` is a directory, a source or not of this kind, or cannot be written.
    """
    with _partial_next_to(path) as (partial, target):
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
    """Whether two paths are the same file, even if spelled differently on a disk that ignores case."""
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

    On any exception, `KeyboardInterrupt` included, the temporary directory is deleted and `path` is unchanged.

    Args:
        needed: the least number of bytes that will be written.
        sources: files or directories that the run reads; see `check_writable`.

    Yields:
        The temporary directory, empty, next to `path` (so on the same disk).

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
    """Write a directory that always has the same content. If another process writes it first, that one stays.

    Yields:
        The temporary directory, which is renamed to `path` when the block ends.

    Raises:
        SharpError: it cannot be written, or the disk is full.
    """
    with _partial_next_to(path) as (partial, target):
        yield partial
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():
                raise


def replace_text(path: Path, text: str) -> None:
    """Write a text file atomically; its directory is created.

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
        The temporary path, which has the name of `path`, in a separate directory.

    Raises:
        SharpError: its directory cannot be written, or the disk is full.
    """
    with _partial_next_to(path) as (partial, target):
        _check_regular(path, target)
        yield partial / target.name
        (partial / target.name).replace(target)


@contextmanager
def _partial_next_to(path: Path) -> Iterator[tuple[Path, Path]]:
    """A temporary directory next to a path, and the path with symbolic links followed, so that a link stays a link."""
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
    """Copy the files of a directory into an existing one. Unlike `shutil.copytree`, it stops when the disk is full."""
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(exist_ok=True)
        else:
            shutil.copyfile(path, copy)


def _swap(partial: Path, target: Path) -> None:
    """Rename `partial` over `target`; an existing directory is deleted only after the new one is in place."""
    while True:
        try:
            # The lock keeps other processes from deleting it as a leftover between the renames, or from replacing it.
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
    """Delete the leftovers of killed processes next to `target`; restore the directory that one was replacing."""
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
    """Delete a directory that was written for `target`; the rename keeps a half-deleted one from being restored."""
    rubbish = _sibling(target, "partial")
    directory.rename(rubbish)
    shutil.rmtree(rubbish, ignore_errors=True)


@contextmanager
def _partial_of(target: Path) -> Iterator[Path]:
    """A new locked directory next to `target`, deleted at the end unless it was renamed."""
    while True:
        partial, descriptor = _sibling(target, "partial"), None
        try:
            partial.mkdir()
            try:
                descriptor = lock_directory(partial)
            except FileNotFoundError:
                continue  # until it is locked, another process may delete it as a leftover
            yield partial
            return
        finally:
            _delete(partial)
            _close(descriptor)


def _delete(directory: Path) -> None:
    """Delete a directory if it exists, also if an interrupt hits the deletion."""
    try:
        shutil.rmtree(directory, ignore_errors=True)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _sibling(target: Path, kind: str) -> Path:
    """A random name next to `target`; not hidden, so that users see the leftovers of a killed run."""
    return target.with_name(f"{target.name}.{kind}-{secrets.token_hex(6)}")


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed because of a full disk, a quota or a file size limit."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _DISK_FULL
    # safetensors reports I/O errors as text: "I/O error: No space left on device (os error 28)"; shutil.copytree
    # joins the errors of all files: "[Errno 28] No space left on device".
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
