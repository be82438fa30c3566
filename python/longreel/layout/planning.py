"""Plans a layout: on the host as a Schedule, on a device as a PlannedLayout."""

from typing import Any

import torch

from longreel import _native
from longreel.layout import plain_planner
from longreel.layout._cost import range_steps
from longreel.layout._host_only import host_only
from longreel.layout._modes import ordinary_tensors
from longreel.layout._ranges import ranges
from longreel.layout.global_keys import global_index, global_ranges
from longreel.layout.numbers import tile_sizes
from longreel.layout.planned import TILES, PlannedLayout
from longreel.layout.schedule import Schedule, block_rows
from longreel.layout.video_layout import VideoLayout

# What a step of half the rows counts as, of a whole one: half the products, 0.5, and some of what reading the keys twice may
# cost. Predicted, see docs/measured.md.
HALF_STEP = 0.55


def plan(layout: VideoLayout, tile: tuple[int, int], bounds: bool) -> Schedule:
    """Plan `layout` for tiles of `tile` = (query rows, keys): linear in the tiles, plus the rows if `bounds`."""
    rows, keys = tile_sizes(tile)
    planner, table = _planner(), ranges(layout).table()
    counts = [int(keys[:, 1].sum()) for keys in global_ranges(layout)]
    tiles, order = planner.query_tiles(table, rows, keys)
    kv_blocks, query_ranges, kv_order = planner.kv_blocks(
        table, [layout.keys] * layout.batch_size, counts, rows, keys, block_rows(layout.queries)
    )
    per_row = planner.row_bounds(table).reshape(layout.batch_size, layout.queries, 4) if bounds else None
    return Schedule((rows, keys), tiles, order, kv_blocks, query_ranges, kv_order, per_row)


def _planner() -> Any:
    """The compiled planner where it is installed; the plain one computes the same arrays."""
    return plain_planner if _native.HOST is None else _native.HOST


def gpu_tile(layout: VideoLayout) -> tuple[int, int]:
    """The GPU's tile, or one of half the rows, where short frames leave so much of whole ones masked: by executed steps."""
    whole, table = TILES["cuda"], ranges(layout).table()
    half = whole[0] // 2, whole[1]
    steps, half_steps = (range_steps(_planner().query_tiles(table, *tile)[0], tile[1]) for tile in (whole, half))
    return half if HALF_STEP * half_steps < steps else whole


@host_only("a layout is planned on the host: pass what layout.to(device) gives into a compiled graph")
def lowered_to(layout: VideoLayout, device: torch.device | str, tile: tuple[int, int] | None = None) -> PlannedLayout:
    """Plan on the host and copy to `device`; `tile` None is the device's own, on a GPU of whole or half height (`gpu_tile`).

    Of a mask of blocks without global keys, which is made anew in every forward pass, the CPU keeps half of the bounds: they
    are most of what such a plan takes.
    """
    device = torch.device(device)
    if tile is None:
        tile = TILES["cpu"] if device.type == "cpu" else gpu_tile(layout)
    schedule = plan(layout, tile, bounds=True)
    with ordinary_tensors():
        bounds, tiles, order, kv_blocks, query_ranges, kv_order = (
            torch.from_numpy(getattr(schedule, name)).to(device)
            for name in ("bounds", "tiles", "order", "kv_blocks", "query_ranges", "kv_order")
        )
        start = torch.tensor(layout.start, dtype=torch.int32, device=device)
        index = torch.from_numpy(global_index(layout)).to(device)
        extent = torch.empty(layout.keys, 0, dtype=torch.int32, device=device)
        if device.type == "cpu" and index.shape[1] == 0 and _of_blocks(layout):
            bounds = bounds[..., :2].contiguous()
    return PlannedLayout(
        layout,
        schedule.tile,
        start,
        index,
        extent,
        bounds,
        tiles,
        order,
        kv_blocks,
        query_ranges,
        kv_order,
        rule=one_rule(layout),
    )


def _of_blocks(layout: VideoLayout) -> bool:
    return all(d.padding or d.rule.attention == "ranges" for documents in layout.samples for d in documents)


def one_rule(layout: VideoLayout) -> str:
    """The attention of every sample's rule, where each is one document, unpadded, whole, and without a bound; or ""."""
    rules = {
        (len(documents), documents[0].padding, documents[0].rule.window, documents[0].rule.attention)
        for documents in layout.samples
    }
    if layout.window is not None or len(rules) != 1:
        return ""
    count, padding, window, attention = rules.pop()
    return "" if count != 1 or padding or window is not None else attention
