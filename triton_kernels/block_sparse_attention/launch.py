"""The arguments of the op by name, and what its launches share: sizes, strides, the plan as kernels take it."""

from typing import Any, NamedTuple

from longreel.triton_kernels.common.card import PORTABLE_SHARED, Card, card_of
from longreel.triton_kernels.common.tiles import Heads, heads_of
from torch import Tensor

# What the interpreter stands for: few multiprocessors, so that small tests split their keys too.
INTERPRETED = Card(1 << 20, PORTABLE_SHARED, 4, wgmma=False)


class Layout(NamedTuple):
    """The plan as kernels take it, int32: global_index [samples, G] and start [samples], whose strides are 0 where one sample
    serves all; bounds [samples, Sq, 4]; tiles of queries in their order; KV blocks, the ranges of query rows that see them,
    and their order (longreel.layout.planned)."""

    global_index: Any
    index_b: Any
    start: Any
    start_b: Any
    bounds: Any
    tiles: Any
    order: Any
    kv_blocks: Any
    query_ranges: Any
    kv_order: Any


class Call(NamedTuple):
    """q [B, Sq, H, D], k and v [B, Sk, Hkv, D], global_k and global_v [B, G, Hkv, D] or None (keys of K by index), the int32
    tensors of the plan, and the plan's tile."""

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
    kv_blocks: Tensor
    query_ranges: Tensor
    kv_order: Tensor
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
    def global_keys(self) -> int:
        """Places of G."""
        return self.global_index.shape[1]

    @property
    def heads(self) -> tuple[Heads | None, ...]:
        """q, k, v, global_k, global_v as kernels take them."""
        return tuple(heads_of(t) for t in (self.q, self.k, self.v, self.global_k, self.global_v))

    @property
    def layout(self) -> Layout:
        strides = [0 if t.shape[0] == 1 else t.stride(0) for t in (self.global_index, self.start)]
        return Layout(
            self.global_index, strides[0], self.start, strides[1], self.bounds, self.tiles, self.order,
            self.kv_blocks, self.query_ranges, self.kv_order,
        )  # fmt: skip

    @property
    def card(self) -> Card:
        return card_of(self.q, INTERPRETED)


class RowTerms(NamedTuple):
    """What the backward needs of every query row, fp32 [B, H, Sq]: lse, delta, and norm, 1 / the sum of p, or None for 1."""

    lse: Any
    delta: Any
    norm: Any


def call_of(*arguments: object) -> Call:
    """The call, with the plan's tensors contiguous, which they are as `VideoLayout.to` makes them."""
    given = Call(*arguments)  # type: ignore[arg-type]
    plan = ("global_index", "start", "bounds", "tiles", "order", "kv_blocks", "query_ranges", "kv_order")
    return given._replace(**{name: getattr(given, name).contiguous() for name in plan})
