"""Locks between processes (flock), on files and on directories.

The kernel releases a lock when its process ends, even after a crash. So a file with a free lock has no living owner.
Process ids could not show this, because containers reuse them.
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

# The errors of a file system without flock; NFS returns EBADF for directories.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL)
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextmanager
def only_user(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`. While another process holds it, report that process and wait.

    The file `<path>.lock` names the owner; it is deleted at the end.

    Raises:
        SharpError: the lock file cannot be written.
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
        with suppress(OSError):  # the caller's next write reports a full disk
            _sign(descriptor)
        yield
    finally:
        lock.unlink(missing_ok=True)  # while still locked, so that it cannot be another process's file
        os.close(descriptor)


def _sign(descriptor: int) -> None:
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode())


def _user(lock: Path) -> str:
    try:
        owner = json.loads(lock.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']} has been using it since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just started or just ended
        return "another process is using it"


def lock_directory(path: Path, *, wait: bool = True) -> int | None:
    """Lock a directory; see `lock_file`. A symbolic link is refused."""
    return _lock(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, wait)


def lock_file(path: Path, *, wait: bool = True) -> int | None:
    """Lock a file; create it if it does not exist.

    Args:
        wait: wait until its owner ends. On a file system without locks this does not wait.

    Returns:
        A file descriptor that holds the lock until it is closed. None without `wait` if another process holds the lock,
        or if the file system has no locks.

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
            # The last owner may have renamed or deleted the file before we got the lock.
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
