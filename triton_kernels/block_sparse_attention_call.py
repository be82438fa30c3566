"""The arguments of a block_sparse_attention op by name, and the sizes and strides that its launches share."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

# What the interpreter stands for: few multiprocessors, so that small tests split their keys too.
INTERPRETED_CARD = (99 * 1024, 4)


class Call(NamedTuple):
    """q [B, Sq, H, D], k and v [B, Sk, Hkv, D], global_k and global_v [B, G, Hkv, D] or None (keys of K by index), the int32
    tensors of the plan (longreel.layout.planned), and the plan's tile."""

    q: Tensor
    k: Tensor
    v: Tensor
    global_k: Tensor | None
    global_v: Tensor | None
    global_index: Tensor
    start: Tensor
    bounds: Tensor
    tiles: Tensor
    order: Tensor
    units: Tensor
    runs: Tensor
    unit_order: Tensor
    tile_rows: int
    tile_keys: int
    scale: float

    @property
    def head(self) -> int:
        return self.q.shape[3]

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.q.shape[2] // self.k.shape[2]

    @property
    def samples(self) -> int:
        """Samples of the batch that one sample of the plan serves."""
        return self.q.shape[0] // self.bounds.shape[0]

    @property
    def places(self) -> int:
        """Places of G."""
        return self.global_index.shape[1]

    @property
    def upcast(self) -> bool:
        """The interpreter's bf16 arithmetic is wrong, its fp32 is not."""
        return not self.q.is_cuda and self.q.dtype == torch.bfloat16

    @property
    def keys(self) -> tuple[Tensor | None, ...]:
        return self.k, self.v, self.global_k, self.global_v, self.global_index, self.start

    @property
    def key_strides(self) -> tuple[int, ...]:
        """Of k, v, global_k, global_v, then what one sample further means in global_index and start."""
        shared = [0 if t.shape[0] == 1 else t.stride(0) for t in (self.global_index, self.start)]
        given = (self.k, self.v, self.global_k, self.global_v)
        return *(stride for t in given for stride in ((0,) * 4 if t is None else t.stride())), *shared

    @property
    def card(self) -> tuple[int, int]:
        """(a block's opt-in shared memory, multiprocessors) of the device."""
        return _card(self.q.device.index) if self.q.is_cuda else INTERPRETED_CARD


def call_of(*arguments: object) -> Call:
    """The call, with the plan's tensors contiguous, which they are as `VideoLayout.to` makes them."""
    given = Call(*arguments)  # type: ignore[arg-type]
    plan = ("global_index", "start", "bounds", "tiles", "order", "units", "runs", "unit_order")
    return given._replace(**{name: getattr(given, name).contiguous() for name in plan})


@functools.lru_cache
def _card(index: int) -> tuple[int, int]:
    properties = torch.cuda.get_device_properties(index)
    return properties.shared_memory_per_block_optin, properties.multi_processor_count
