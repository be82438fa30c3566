"""A plan of packed sequences made where their lengths are: tensor operations alone, nothing is read by the host.

Tables are as long as they may have to be: `rows` says how many tiles there are at most, and those that are not needed are empty.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from longreel.layout._modes import ordinary_tensors
from longreel.layout.numbers import MOST_ROWS, count, flag, tile_sizes
from longreel.layout.planned import TILES, PlannedLayout


@dataclass(frozen=True, eq=False)
class DeviceSequences:
    """What the host knows of sequences whose lengths cu_seqlens int [n + 1] are on a device."""

    cu_seqlens: Tensor
    rows: int
    causal: bool
    window: int | None
    batch_size: int = 1

    @property
    def queries(self) -> int:
        return self.rows

    @property
    def keys(self) -> int:
        return self.rows

    def to(self, device: torch.device | str) -> PlannedLayout:
        """Planned on another device, from a copy of the lengths."""
        return from_cu_seqlens(self.cu_seqlens.to(device), self.rows, self.causal, self.window, None)


class _Rule(NamedTuple):
    """Whom a row of a sequence attends to: keys at most `back` before it and at most `ahead` behind it."""

    back: int
    ahead: int

    def swapped(self) -> "_Rule":
        """To which rows a key is visible."""
        return _Rule(self.ahead, self.back)


def from_cu_seqlens(
    cu_seqlens: Tensor, rows: int, causal: bool, window: int | None, tile: tuple[int, int] | None
) -> PlannedLayout:
    """See VideoLayout.from_cu_seqlens."""
    if not isinstance(cu_seqlens, Tensor) or cu_seqlens.dim() != 1 or not len(cu_seqlens) or not _whole(cu_seqlens):
        given = (
            f"{cu_seqlens.dtype} {list(cu_seqlens.shape)}"
            if isinstance(cu_seqlens, Tensor)
            else type(cu_seqlens).__name__
        )
        raise ValueError(f"cu_seqlens is an integer tensor [n + 1], given {given}")
    rows = count("rows", rows, most=MOST_ROWS)
    window = window if window is None else count("window", window, 1)
    flag("causal", causal)
    if tile is not None:
        tile = tile_sizes(tile)
    _check_bounds(cu_seqlens, rows)
    device = cu_seqlens.device
    tile = TILES.get(device.type, TILES["cuda"]) if tile is None else tile
    # What lies beyond all rows is as good as at their end; sums with it stay within 64 bits.
    reach = rows if window is None else min(rows, window - 1)
    rule = _Rule(reach, 0 if causal else reach)
    if torch.compiler.is_compiling():
        own, tables = cu_seqlens.clone(), _tables(cu_seqlens, rows, rule, tile)
    else:
        with ordinary_tensors():
            own, tables = cu_seqlens.clone(), _tables(cu_seqlens, rows, rule, tile)
    bounds, tiles, order, kv_blocks, query_ranges, kv_order, start, index, extent = tables
    return PlannedLayout(
        # Planned on another device later, it is of the lengths as they are now.
        DeviceSequences(own, rows, causal, window),
        tile,
        start,
        index,
        extent,
        bounds,
        tiles,
        order,
        kv_blocks,
        query_ranges,
        kv_order,
    )


def _whole(cu_seqlens: Tensor) -> bool:
    return not (cu_seqlens.is_floating_point() or cu_seqlens.is_complex() or cu_seqlens.dtype is torch.bool)


def _check_bounds(cu_seqlens: Tensor, rows: int) -> None:
    """Where they are in the host's memory it need not wait for them."""
    if cu_seqlens.device.type != "cpu" or type(cu_seqlens) is not Tensor or torch.compiler.is_compiling():
        return
    if torch._C._are_functorch_transforms_active():
        return
    ends = cu_seqlens.numpy()
    if ends[0] != 0 or ends[-1] > rows or (ends[1:] < ends[:-1]).any():
        given = ends.tolist() if len(ends) <= 12 else f"{len(ends)} of them"
        raise ValueError(f"cu_seqlens must rise from 0 to {rows} at most, the rows; given {given}")


def _tables(cu_seqlens: Tensor, rows: int, rule: _Rule, tile: tuple[int, int]) -> tuple[Tensor, ...]:
    device = cu_seqlens.device
    # [n + 2]: where sequences begin; the last is what stands behind them, which attends to nothing.
    edges = torch.cat([cu_seqlens.long(), cu_seqlens.new_full((1,), rows, dtype=torch.long)]).clamp(0, rows)
    row = torch.arange(rows, device=device)
    own = _sequence_of(row, edges[1:])
    inside = own < edges.shape[0] - 2
    begin, end = edges[own], edges[own + 1]
    lo = torch.where(inside, torch.maximum(begin, row - rule.back), row + 1)
    hi = torch.where(inside, torch.minimum(end, row + rule.ahead + 1), row + 1)
    bounds = torch.stack([lo, hi, torch.zeros_like(lo), torch.zeros_like(lo)], -1)[None]
    tiles, met = _pieces(edges, rows, tile[0], rule, tile[1])
    none = torch.zeros_like(tiles[:, :1])
    table = torch.cat([none, tiles, none, met, none.expand(-1, 4)], 1)
    keys_of, query_ranges = _pieces(edges, rows, tile[1], rule.swapped(), tile[0])
    none = torch.zeros_like(keys_of[:, :1])
    first = torch.arange(keys_of.shape[0], device=device)[:, None]
    has = (keys_of[:, :1] < keys_of[:, 1:]).long()
    kv_blocks = torch.cat([none, none, keys_of, first, first + has], 1)
    made = (bounds, table, _heavy_first(met, tile[1]), kv_blocks, query_ranges, _heavy_first(query_ranges, tile[0]))
    empty = (
        torch.zeros(1, dtype=torch.int32, device=device),
        torch.zeros(1, 0, dtype=torch.int32, device=device),
        torch.empty(rows, 0, dtype=torch.int32, device=device),
    )
    return *(t.int() for t in made), *empty


def _sequence_of(place: Tensor, ends: Tensor) -> Tensor:
    """The sequence that each place stands in; a place behind all is in the last."""
    return torch.searchsorted(ends, place, right=True).clamp(max=ends.shape[0] - 1)


def _pieces(edges: Tensor, rows: int, size: int, rule: _Rule, step: int) -> tuple[Tensor, Tensor]:
    """Sequences cut into pieces of at most `size`: [T, 2] begin and end of each, and [T, 4] the range, in steps of `step`, of
    what they meet under `rule`."""
    counts = (edges.diff() + size - 1) // size
    ends = counts.cumsum(0)
    most = -(-rows // size) + edges.shape[0] - 1 if rows else 0
    slot = torch.arange(most, device=edges.device)
    own = _sequence_of(slot, ends)
    there = slot < ends[-1]
    lowest, highest = edges[own], edges[own + 1]
    begin = torch.where(there, lowest + (slot - ends[own] + counts[own]) * size, 0)
    end = torch.where(there, torch.minimum(begin + size, highest), 0)
    # Met by the first or the last of the piece, and by all of it.
    first = torch.maximum(lowest, begin - rule.back)
    last = torch.minimum(highest, end + rule.ahead)
    full_first = torch.maximum(lowest, end - 1 - rule.back)
    full_last = torch.minimum(highest, begin + rule.ahead + 1)
    full_begin = first + (full_first - first + step - 1) // step * step
    full_end = full_begin + (full_last - full_begin).clamp(min=0) // step * step
    whole = full_begin < full_end
    met = torch.stack([first, torch.where(whole, full_begin, first), torch.where(whole, full_end, first), last], 1)
    within = there & (own < edges.shape[0] - 2)
    return torch.stack([begin, end], 1), met * within[:, None]


def _heavy_first(met: Tensor, step: int) -> Tensor:
    """Places of the ranges, those of many steps first, in powers of two; neighbours together."""
    steps = (met[:, 3] - met[:, 0] + step - 1) // step
    return torch.argsort(-steps.clamp(min=1).double().log2().floor(), stable=True)
