"""Drop the pages of a file from the kernel's page cache.

After a reboot, or after other apps needed the memory, a launch reads its model from flash. Dropping the model's pages
between launches gives the same state.
"""

import os
from pathlib import Path


def drop(path: Path) -> None:
    """Drop a file's pages; dirty pages are written to disk first. Pages that a process has mapped stay."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
