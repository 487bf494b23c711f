"""Give memory back that is not needed at the moment: a large model is walked through, not held.

All of this is for Linux, and nothing happens elsewhere; results never depend on it.
"""

import ctypes
import mmap
import sys
from pathlib import Path

import torch

# madvise: let pages go that can be read again. It changes no memory, whoever it belongs to.
_MADV_PAGEOUT = 21
# mallopt: from this size on, what is freed goes back to the system at once; and how much free heap is kept.
_M_MMAP_THRESHOLD, _LARGE = -3, 2 << 20
_M_TRIM_THRESHOLD, _FREE_HEAP = -1, 64 << 20


def page_out(tensor: torch.Tensor) -> None:
    """Let a mapped tensor's pages go until they are touched again, so that they don't count as this process's memory.

    Nothing happens to tensors that are not mapped.
    """
    if sys.platform != "linux" or tensor.device.type != "cpu":
        return
    page = mmap.PAGESIZE
    first = -(-tensor.data_ptr() // page) * page
    length = (tensor.data_ptr() + tensor.nbytes) // page * page - first
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _MADV_PAGEOUT)


def return_freed_tensors() -> None:
    """Let what freed tensors took go back to the system: glibc keeps it, in pieces too small for the next tensor."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # not in other C libraries
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _FREE_HEAP)


def mapped_bytes(path: Path) -> torch.Tensor:
    """A file's bytes, uint8 [size], mapped and never written to."""
    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
