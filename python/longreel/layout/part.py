"""Plans of some query rows of a layout, where nobody asks for the others."""

from typing import Any

import torch

from longreel import _native
from longreel.layout import plain_planner
from longreel.layout._host_only import host_only
from longreel.layout._modes import ordinary_tensors
from longreel.layout._ranges import Ranges, clipped, ranges
from longreel.layout.global_keys import global_index
from longreel.layout.planned import TILES, PlannedLayout
from longreel.layout.schedule import block_rows
from longreel.layout.segments import chunk_of
from longreel.layout.video_layout import VideoLayout


@host_only("a layout is planned on the host")
def planned_vst_rows(layout: VideoLayout, device: torch.device | str) -> PlannedLayout:
    """Of one chunk of Video-XL the plan of its VST rows alone, over all its keys. For forward passes: it has no backward plan.

    To `vst_attention` they are text rows behind no other keys (``k_before`` of zeros), which it takes for more keys than rows.

    Raises:
        ValueError: the layout is no single chunk.
    """
    segments = [segment for document in layout.samples[0] for segment in document.segments]
    if layout.batch_size != 1 or [segment.kind for segment in segments] != ["vst"]:
        raise ValueError(f"{layout!r}: VST rows alone are planned for one chunk")
    vst, device = chunk_of(segments[0]).vst, torch.device(device)
    whole = ranges(layout.grouped())
    tail = whole.row >= layout.length - vst
    part = Ranges(*(column[tail] for column in whole))
    table = part._replace(row=part.row - part.row[0]).table()
    rows, keys = tile = TILES.get(device.type, TILES["cuda"])
    planner: Any = plain_planner if _native.HOST is None else _native.HOST
    tiles, order = planner.query_tiles(table, rows, keys)
    with ordinary_tensors():
        bounds, tiles, order = (
            torch.from_numpy(array).to(device) for array in (planner.row_bounds(table).reshape(1, vst, 4), tiles, order)
        )
        none = torch.zeros(0, dtype=torch.int32, device=device)
        start = torch.zeros(1, dtype=torch.int32, device=device)
        extent = torch.empty(layout.length, 0, dtype=torch.int32, device=device)
    return PlannedLayout(
        layout.grouped(),
        tile,
        start,
        none.view(1, 0),
        extent,
        bounds,
        tiles,
        order,
        none.view(0, 6),
        none.view(0, 4),
        none,
        rule="text",
    )


@torch.compiler.disable(reason="a layout is planned on the host")
def planned_from(layout: VideoLayout, first: int, device: torch.device | str) -> PlannedLayout:
    """The plan of the query rows from `first` on, in the layout's order, over all its keys; forward and backward.

    Of a grouped layout of Video-XL: of text and VST rows, where nobody reads a visual row of that layer.

    Raises:
        ValueError: several samples, a window of rows, or no such row.
    """
    if layout.batch_size != 1 or layout.window is not None or not 0 <= first < layout.length:
        raise ValueError(f"{layout!r}: rows from {first} on are planned for a whole layout of one sample that has them")
    device, queries = torch.device(device), layout.length - first
    rows, keys = tile = TILES.get(device.type, TILES["cuda"])
    planner: Any = plain_planner if _native.HOST is None else _native.HOST
    table, index = clipped(ranges(layout), first, layout.length).table(), global_index(layout)
    arrays: tuple[Any, ...] = (
        planner.row_bounds(table).reshape(1, queries, 4),
        *planner.query_tiles(table, rows, keys),
        *planner.kv_blocks(table, [layout.length], [index.shape[1]], rows, keys, block_rows(queries)),
    )
    with ordinary_tensors():
        start = torch.zeros(1, dtype=torch.int32, device=device)
        extent = torch.empty(layout.length, 0, dtype=torch.int32, device=device)
        bounds, tiles, order, kv_blocks, query_ranges, kv_order = (
            torch.from_numpy(array).to(device) for array in arrays
        )
        places = torch.from_numpy(index).to(device)
    # What asks for a whole layout (flash) takes no part of one.
    return PlannedLayout(None, tile, start, places, extent, bounds, tiles, order, kv_blocks, query_ranges, kv_order)
