"""How the C library gives memory out while figures are taken.

Its default maps and unmaps every large result of a call anew, and the kernel zeroes and maps it page by page: of a gradient of
gigabytes that is most of the time, and what it costs swings several-fold from one sample to the next.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from longreel.measure.memory import return_free_memory

# Of mallopt: number and default.
_TRIM_THRESHOLD, _MMAP_MAX = (-1, 128 * 1024), (-4, 65536)
_NEVER, _NONE = -1, 0


@contextmanager
def memory_reused(device: torch.device) -> Iterator[str]:
    """Freed memory stays with the process, and later results take it again: what is timed is the work, not the faults of its
    pages. Gives how results get their memory, in words; on a GPU torch's allocator keeps it anyway.

    The C library looks for 96 bytes more than torch's aligned tensors take, so that one whose place is wedged in between others
    may be given new pages all the same: in 4 of 10 processes that made one size again and again."""
    if device.type == "cuda":
        yield "kept by torch's CUDA allocator"
        return
    if preloaded := os.environ.get("LD_PRELOAD"):
        yield f"as {preloaded} gives it"
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        yield "as the C library gives it: pages of large results are mapped anew in every call"
        return
    mallopt(_MMAP_MAX[0], _NONE)
    mallopt(_TRIM_THRESHOLD[0], _NEVER)
    try:
        reused = "left with the process from call to call, and taken again where it fits, for every variant"
        yield f"{reused} (mallopt M_MMAP_MAX=0, M_TRIM_THRESHOLD=-1)"
    finally:
        for parameter, default in (_MMAP_MAX, _TRIM_THRESHOLD):
            mallopt(parameter, default)
        return_free_memory()
