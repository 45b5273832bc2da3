"""Large fresh tensors in large pages.

The C library gives a block of 32 MiB or more back to the system when it is freed, so that writing
into the next one costs a page fault each 4 KiB, which may be more than the product that fills it.
Linux gives 2 MiB pages where it is asked to; elsewhere, and where it declines, nothing changes.
"""

import ctypes
import mmap
import sys
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

LEAST = 2**25  # bytes from which the C library never keeps a block


def huge(x: Tensor) -> Tensor:
    """x, new and not yet written to."""
    size = x.numel() * x.element_size()
    advise = _advise() if x.device.type == "cpu" and size >= LEAST else None
    if advise is not None and not torch.compiler.is_compiling():
        start = -(-x.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        whole = (x.data_ptr() + size - start) // mmap.PAGESIZE * mmap.PAGESIZE
        advise(start, whole, mmap.MADV_HUGEPAGE)
    return x


@cache
def _advise() -> Callable[[int, int, int], int] | None:
    """The system's madvise."""
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return advise
