"""Names in a profiler's trace, and in NVIDIA's tools where there is a card."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def named(name: str, device: torch.device) -> Iterator[None]:
    """What runs inside is `name` to torch's profiler where one records, and an NVTX range on a GPU; else nothing is done."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.nvtx.range_push(name)
    try:
        if torch.autograd.profiler._is_profiler_enabled:
            with torch.profiler.record_function(name):
                yield
        else:
            yield
    finally:
        if on_gpu:
            torch.cuda.nvtx.range_pop()
