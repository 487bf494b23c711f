"""Pages of a file in the kernel's page cache: drop them.

A launch after a reboot, or after other apps wanted the memory, reads its model from flash. Here the same is had by
dropping the model's pages between launches.
"""

import os
from pathlib import Path


def drop(path: Path) -> None:
    """Drop a file's pages; those that are dirty are written out first. Pages that a process has mapped stay."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
