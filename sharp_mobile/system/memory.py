"""Release memory that is not needed now, so that a large model is processed in parts.

These functions work on Linux and do nothing elsewhere; results never depend on them.
"""

import ctypes
import mmap
import sys
from pathlib import Path

import torch

# madvise: release pages that can be read again. It never changes the content of memory.
_MADV_PAGEOUT = 21
# mallopt: freed blocks from this size on return to the system at once; and the largest free heap that glibc retains.
_M_MMAP_THRESHOLD, _LARGE = -3, 2 << 20
_M_TRIM_THRESHOLD, _FREE_HEAP = -1, 64 << 20


def page_out(tensor: torch.Tensor) -> None:
    """Release a mapped tensor's pages until their next use, so that they do not count as this process's memory.

    Tensors that are not mapped stay as they are.
    """
    if sys.platform != "linux" or tensor.device.type != "cpu":
        return
    page = mmap.PAGESIZE
    first = -(-tensor.data_ptr() // page) * page
    length = (tensor.data_ptr() + tensor.nbytes) // page * page - first
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _MADV_PAGEOUT)


def return_freed_tensors() -> None:
    """Return freed tensors' memory to the system. By default glibc retains it, in pieces too small for new tensors."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # not in other C libraries
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _FREE_HEAP)


def mapped_bytes(path: Path) -> torch.Tensor:
    """A file's bytes, uint8 [size], memory-mapped; never write to it."""
    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
