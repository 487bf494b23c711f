"""Locks between processes (flock), on files and on directories.

The kernel frees a lock when its process ends, however it ends. So a file whose lock is free has no living owner, and no
process id is needed to know it (in containers, the same ids come again and again).
"""

import errno
import fcntl
import os
from pathlib import Path

# What a file system without flock answers; NFS answers EBADF for directories.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL)
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


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
