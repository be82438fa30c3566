"""Tensors whose elements lie beyond 2^31 of their storage, of which almost no memory is touched."""

import math
import mmap

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
