"""The arguments of the op by name, and what its launches share: sizes, strides, the plan as kernels take it."""

from typing import Any, NamedTuple

import torch
from longreel.triton_kernels.common.card import PORTABLE_SHARED, Card, card_of
from longreel.triton_kernels.common.tiles import Heads, heads_of
from torch import Tensor

# What the interpreter stands for: few multiprocessors, so that small tests split their keys too.
INTERPRETED = Card(1 << 20, PORTABLE_SHARED, 4, wgmma=False)


class Layout(NamedTuple):
    """The plan as kernels take it, int32: global_index [samples, G] and start [samples], whose strides are 0 where one sample
    serves all; bounds [samples, Sq, 4]; tiles of queries in their order; KV blocks, the ranges of query rows that attend to them,
    and their order (longreel.layout.planned).

    mem_len [B]: the global keys are those of a memory, whose own stand behind so many others; mem_start [B]: entries before it
    are hidden; k_before [B]: keys that stand before the rows' own in k and v. What is None is not there: mem_start and
    k_before are 0, and without mem_len the plan is as it is."""

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
    mem_len: Any
    mem_start: Any
    k_before: Any


class Call(NamedTuple):
    """q [B, Sq, H, D], k and v [B, Sk, Hkv, D], global_k and global_v [B, G, Hkv, D] or None (keys of K by index), the int32
    tensors of the plan, and the plan's tile; what `Layout` says of a memory."""

    q: Tensor
    k: Tensor
    v: Tensor
    global_k: Tensor | None
    global_v: Tensor | None
    global_index: Tensor | None
    start: Tensor | None
    bounds: Tensor
    tiles: Tensor
    order: Tensor
    kv_blocks: Tensor | None
    query_ranges: Tensor | None
    kv_order: Tensor | None
    tile_rows: int
    tile_keys: int
    scale: float
    mem_len: Tensor | None = None
    mem_start: Tensor | None = None
    k_before: Tensor | None = None

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
        """Places of G, or of the memory."""
        places = self.global_k if self.global_index is None else self.global_index
        assert places is not None
        return places.shape[1]

    @property
    def heads(self) -> tuple[Heads | None, ...]:
        """q, k, v, global_k, global_v as kernels take them."""
        return tuple(map(heads_of, (self.q, self.k, self.v, self.global_k, self.global_v)))

    @property
    def layout(self) -> Layout:
        shared = (self.global_index, self.start)
        strides = [0 if t is None or t.shape[0] == 1 else t.stride(0) for t in shared]
        return Layout(
            self.global_index, strides[0], self.start, strides[1], self.bounds, self.tiles, self.order,
            self.kv_blocks, self.query_ranges, self.kv_order, self.mem_len, self.mem_start, self.k_before,
        )  # fmt: skip

    @property
    def card(self) -> Card:
        return card_of(self.q, INTERPRETED)


def with_own_global(call: Call) -> Call:
    """The call with its global keys in tensors of their own: kernels that walk them many times read them in order. Places that
    pad G hold row 0, which nobody attends to there."""
    index = call.global_index
    if call.global_k is not None or index is None or index.shape[1] == 0:
        return call
    made = []
    for rows in (call.k, call.v):
        if index.shape[0] == 1:
            made.append(rows.index_select(1, index[0].clamp(min=0)))
        else:
            at = index.long().clamp(min=0)[:, :, None, None].expand(-1, -1, *rows.shape[2:])
            made.append(rows.gather(1, at))
    return call._replace(global_k=made[0], global_v=made[1])


class RowTerms(NamedTuple):
    """What the backward needs of every query row, fp32 [B, H, Sq]: lse, delta, and norm, 1 / the sum of p, or None for 1."""

    lse: Any
    delta: Any
    norm: Any


def call_of(*arguments: object) -> Call:
    """The call, with the plan's tensors contiguous, which they are as `VideoLayout.to` makes them."""
    given = Call(*arguments)  # type: ignore[arg-type]
    plan = ("global_index", "start", "bounds", "tiles", "order", "kv_blocks", "query_ranges", "kv_order")
    given = given._replace(**{name: getattr(given, name).contiguous() for name in plan})
    if given.global_index is not None and given.global_index.shape[0] > 1:
        given = given._replace(global_index=wide_rows(given.global_index))
    if given.bounds.shape[2] == 4:
        return given
    # Planned for the CPU, and interpreted.
    return given._replace(bounds=torch.nn.functional.pad(given.bounds, (0, 2)))


def wide_rows(index: Tensor) -> Tensor:
    """[samples, n], every row where reads are as wide as of the first: no n compiles anything anew."""
    n = index.shape[1]
    return torch.nn.functional.pad(index, (0, -n % 16))[:, :n] if n % 16 else index


def memory_call(
    q: Tensor, k: Tensor, v: Tensor, mem_k: Tensor, mem_v: Tensor, mem_len: Tensor, mem_start: Tensor | None,
    k_before: Tensor | None, bounds: Tensor, tiles: Tensor, order: Tensor, tile_rows: int, tile_keys: int, scale: float,
) -> Call:  # fmt: skip
    """The call whose global keys are a memory's, mem_k and mem_v [B, Hkv, capacity, D], read where they stand."""
    return Call(
        q, k, v, mem_k.transpose(1, 2), mem_v.transpose(1, 2), None, None,
        bounds.contiguous(), tiles.contiguous(), order.contiguous(), None, None, None, tile_rows, tile_keys, scale,
        mem_len.contiguous(), mem_start if mem_start is None else mem_start.contiguous(),
        k_before if k_before is None else k_before.contiguous(),
    )  # fmt: skip
