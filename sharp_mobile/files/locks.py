"""Locks between processes (flock), on files and on directories.

The kernel frees a lock when its process ends, however it ends. So a file whose lock is free has no living owner, and no
process id is needed to know it (in containers, the same ids come again and again).
"""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from sharp_mobile.console import say
from sharp_mobile.errors import SharpError

# What a file system without flock answers; NFS answers EBADF for directories.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL)
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextmanager
def only_user(path: Path) -> Iterator[None]:
    """Keep other processes that call this from `path`; wait, and say for whom, while one uses it.

    The file `<path>.lock` says who does, and is deleted at the end.

    Raises:
        SharpError: the file cannot be written.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = lock_file(lock, wait=False)
        if descriptor is None:
            say(f"{path}: {_user(lock)}; waiting until it ends")
            descriptor = lock_file(lock)
    except OSError as error:
        raise SharpError(f"{lock}: cannot be written: {error.strerror}; see who owns {lock.parent}") from error
    assert descriptor is not None
    try:
        with suppress(OSError):  # a full disk is reported by what is written next
            _sign(descriptor)
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is locked, so that no other process's file is deleted
        os.close(descriptor)


def _sign(descriptor: int) -> None:
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode())


def _user(lock: Path) -> str:
    try:
        held = json.loads(lock.read_text(encoding="utf-8"))
        return f"process {held['pid']} on {held['host']} has been using it since {held['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun, or ended
        return "another process is using it"


def lock_directory(path: Path, *, wait: bool = True) -> int | None:
    """Lock a directory; see `lock_file`. A symbolic link is no directory."""
    return _lock(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, wait)


def lock_file(path: Path, *, wait: bool = True) -> int | None:
    """Lock a file, which is created if it does not exist.

    Args:
        wait: until its owner ends. On a file system without locks there is nothing to wait for.

    Returns:
        A file descriptor that holds the lock until it is closed. None without `wait` if another process holds the lock,
        or if nobody can tell.

    Raises:
        OSError: the file cannot be opened.
    """
    return _lock(path, os.O_RDWR | os.O_CREAT, wait)


def _lock(path: Path, flags: int, wait: bool) -> int | None:
    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            if not _flock(descriptor, wait):
                os.close(descriptor)
                return None
            # Its last owner may have renamed or deleted it before the lock was ours.
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _flock(descriptor: int, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return wait
        if error.errno in _BUSY:
            return False
        raise
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
