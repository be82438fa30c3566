"""Tensors whose elements lie beyond 2^31 of their storage, of which almost no memory is touched."""

import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

BEYOND = 2**31


def far(tensor: Tensor, dim: int = 0) -> Tensor:
    """A copy of `tensor` strided over a mostly untouched allocation: its last entry of `dim` begins beyond 2^31 elements.

    A kernel that multiplies index and stride in 32 bits reads the wrong place, or faults. `dim` must have at least 2
    entries. On the CPU only the pages that hold the copy are real.
    """
    size = tensor.shape[dim]
    if size < 2:
        raise ValueError(f"dim {dim} of {tuple(tensor.shape)} has {size} entries, far() needs at least 2")
    strides = list(torch.empty(tensor.shape, device="meta").stride())
    strides[dim] = (BEYOND + tensor.numel()) // (size - 1) + 1
    extent = 1 + sum(stride * (count - 1) for stride, count in zip(strides, tensor.shape, strict=True))
    storage = torch.empty(max(extent, 0), dtype=tensor.dtype, device=tensor.device)
    view = storage.as_strided(tensor.shape, strides)
    return view.copy_(tensor)


def hour(last: Tensor, frames: int = 6000) -> Tensor:
    """Contiguous ``[frames, *last.shape[1:]]`` that ends with `last`; the frames before it are zero and own no memory.

    6,000 frames of 256 x 1408 patches pass 2^31 elements. CPU only: reading pages that were never written costs no memory.
    """
    if last.device.type != "cpu" or frames < last.shape[0]:
        raise ValueError(f"hour() takes CPU frames, at most {frames}; given {last.shape[0]} on {last.device}")
    shape = (frames, *last.shape[1:])
    memory = mmap.mmap(-1, math.prod(shape) * last.element_size(), flags=mmap.MAP_PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)  # a page fault per 2 MiB read, not per 4 KiB
    patches = torch.frombuffer(memory, dtype=last.dtype, count=math.prod(shape)).view(shape)
    patches[frames - last.shape[0] :] = last
    return patches


@contextmanager
def last_programs(count: int) -> Iterator[None]:
    """Inside, interpreted Triton launches run only the last `count` programs of their first axis.

    So a launch of true size can be shown right where its offsets are largest: the interpreter computes addresses in the
    widths that a GPU does, and one that wraps reads elsewhere or faults. What the other programs would have written stays
    as it was.
    """
    from triton.runtime import interpreter

    builder, executor = interpreter.interpreter_builder, interpreter.GridExecutor
    call = executor.__call__

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        full, launched = self.grid, min(count, self.grid[0])

        def set_grid_idx(x: int, y: int, z: int) -> None:
            builder.grid_idx = (full[0] - launched + x, y, z)

        self.grid, builder.set_grid_idx = (launched, *full[1:]), set_grid_idx
        try:
            return call(self, *args, **kwargs)
        finally:
            del builder.set_grid_idx

    executor.__call__ = run
    try:
        yield
    finally:
        executor.__call__ = call
