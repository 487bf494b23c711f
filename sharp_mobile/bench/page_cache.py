"""Pages of a file in the kernel's page cache: drop them, and count them.

A launch after a reboot, or after other apps wanted the memory, reads its model from flash. Here the same is had by
dropping the model's pages between launches.
"""

import ctypes
import ctypes.util
import mmap
import os
from pathlib import Path

_LIBC = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)


def drop(path: Path) -> None:
    """Drop a file's pages; those that are dirty are written out first. Pages that a process has mapped stay."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def resident_bytes(path: Path) -> int:
    """How much of a file is in memory, in whole pages."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as mapping:
        size = len(mapping)
        pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        found = (ctypes.c_ubyte * pages)()
        start = ctypes.c_char.from_buffer(mapping)
        try:
            status = _LIBC.mincore(ctypes.byref(start), ctypes.c_size_t(size), found)
            if status:
                raise OSError(ctypes.get_errno(), "mincore")
        finally:
            del start  # or the mapping cannot be closed
        return sum(page & 1 for page in found) * mmap.PAGESIZE
