"""Work of attention under a layout: (query, key) pairs, FLOPs and bytes; dense, visible, and executed by a schedule."""

from dataclasses import dataclass

import numpy as np

from longreel.layout._ranges import ranges
from longreel.layout.global_keys import global_ranges
from longreel.layout.numbers import count
from longreel.layout.schedule import Schedule, Table
from longreel.layout.video_layout import VideoLayout


@dataclass(frozen=True)
class AttentionCost:
    """One forward pass over all samples and heads. FLOPs: 4 * head size per (query, key) pair and head.

    dense, visible, executed: FLOPs over all pairs, over the pairs the layout shows, over those of the schedule's tiles.
    bytes: q, k, v and the gathered global keys read once, the output written once.
    mask_bytes: what a dense mask in that dtype would take, per sample, shared by the heads.
    """

    dense: int
    visible: int
    executed: int | None
    bytes: int
    mask_bytes: int

    @property
    def overhead(self) -> float | None:
        """Executed over visible FLOPs."""
        return None if self.executed is None else self.executed / max(1, self.visible)


def cost(
    layout: VideoLayout,
    *,
    heads: int,
    kv_heads: int | None = None,
    head_dim: int,
    element_size: int = 2,
    schedule: Schedule | None = None,
    lanes: tuple[int, int] | None = None,
) -> AttentionCost:
    """What `block_sparse_attention` does over the layout. `schedule` and `lanes`: see `executed_pairs`."""
    kv_heads = count("kv_heads", heads if kv_heads is None else kv_heads)
    heads, head_dim = count("heads", heads), count("head_dim", head_dim)
    element_size = count("element_size", element_size)
    each = 4 * head_dim * heads
    batch, queries, keys = layout.batch_size, layout.queries, layout.keys
    gathered = sum(int(keys[:, 1].sum()) for keys in global_ranges(layout))
    row = head_dim * element_size
    return AttentionCost(
        dense=each * batch * queries * keys,
        visible=each * visible_pairs(layout),
        executed=None if schedule is None else each * executed_pairs(schedule, lanes),
        bytes=row * (2 * heads * batch * queries + 2 * kv_heads * (batch * keys + gathered)),
        mask_bytes=batch * queries * keys * element_size,
    )


def visible_pairs(layout: VideoLayout) -> int:
    """(query, key) pairs that the layout shows, over all samples: O(range segments)."""
    r = ranges(layout)
    triangle = r.rows * (r.rows - 1) // 2
    local = r.rows * (r.hi - r.lo) - triangle * r.lo_step
    # Where the period is 1 the sum has a closed form; grouped chunks are few.
    straight = r.over == 1
    rise = np.where(straight, r.up * triangle + r.rows * r.carry, 0)
    bent = sum(
        floor_sum(*map(int, line))
        for line in zip(r.rows[~straight], r.over[~straight], r.up[~straight], r.carry[~straight], strict=True)
    )
    return int((local + rise + r.rows * (r.ghi - r.glo)).sum()) + bent


def executed_pairs(schedule: Schedule, lanes: tuple[int, int] | None = None) -> int:
    """(query, key) pairs that tiles compute, masked lanes included, over all samples.

    lanes: rows and keys are computed in these multiples; a kernel that masks only inside its tile has lanes = tile (the
    default), one that stops at the last row and key of a tile has its vector's width.
    """
    row_lane, key_lane = schedule.tile if lanes is None else lanes
    tiles = schedule.tiles.astype(np.int64)
    rows = _up(tiles[:, 2] - tiles[:, 1], row_lane)
    return int((rows * (_stepped_keys(tiles[:, 4:8], key_lane) + _stepped_keys(tiles[:, 8:12], key_lane))).sum())


def range_steps(tiles: Table, tile_keys: int) -> int:
    """Steps of `tile_keys` keys of all tiles [T, 12]."""
    return int(sum((_stepped_keys(tiles[:, at : at + 4], tile_keys) // tile_keys).sum() for at in (4, 8)))


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """sum of floor((a * i + b) / m) over 0 <= i < n, all at least 0, in O(log m) (Euclid)."""
    total = 0
    while n > 0:
        total += n * (n - 1) // 2 * (a // m) + n * (b // m)
        top = (a % m) * n + b % m
        n, m, a, b = top // m, a % m, m, top % m
        if m == 0:
            break
    return total


def _stepped_keys(run: np.ndarray, lane: int) -> Table:
    return _up(run[:, 3] - run[:, 0], lane)


def _up(n: Table, step: int) -> Table:
    return -(-n // step) * step
