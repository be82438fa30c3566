"""The tile schedule of a layout: which rows meet which keys, tile by tile, for forward and backward kernels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from longreel import _native
from longreel.layout import plain_planner
from longreel.layout._ranges import ranges
from longreel.layout.global_keys import global_runs

if TYPE_CHECKING:
    from longreel.layout.video_layout import VideoLayout

Table = NDArray[np.int32]

# A block of G is summed by several workers, each over at least so many rows, by so many workers at most.
UNIT_ROWS, UNITS = 4096, 8


@dataclass(frozen=True, eq=False)
class Schedule:
    """Int32 arrays. A run is (begin, full_begin, full_end, end): walked in steps of the tile from begin, the steps in
    full_begin .. full_end are whole tiles that see one another entirely, all others need the rows' own bounds.

    tile: (query rows, keys) of a tile.
    tiles [T, 12]: sample, first row, last row + 1, first range segment, run of keys in K (4), run of keys in G (4).
      Every query row is in exactly one tile; an empty run is (0, 0, 0, 0).
    order [T]: tiles, heavy before light, neighbours together.
    units [U, 6]: sample, is_global, first key, last key + 1 (in K or in G), first run, last run + 1. Every key is in
      exactly one unit of K; a block of G may have several units, one behind the other, whose sums are added in that order.
    runs [N, 4]: runs of query rows that see the unit's keys.
    unit_order [U]: units, heavy before light.
    bounds [B, Sq, 4]: lo, hi, glo, ghi of every query row, or None where they were not asked for.
    """

    tile: tuple[int, int]
    tiles: Table
    order: Table
    units: Table
    runs: Table
    unit_order: Table
    bounds: Table | None

    @property
    def nbytes(self) -> int:
        arrays = (self.tiles, self.order, self.units, self.runs, self.unit_order, self.bounds)
        return sum(array.nbytes for array in arrays if array is not None)


def plan(layout: "VideoLayout", tile: tuple[int, int], bounds: bool) -> Schedule:
    """Plan `layout` for tiles of `tile` = (query rows, keys): linear in the tiles, plus the rows if `bounds`."""
    rows, keys = tile
    if rows < 1 or keys < 1:
        raise ValueError(f"tile={tile}: a tile has at least 1 row and 1 key")
    # The compiled planner where it is installed; the plain one computes the same arrays.
    planner: Any = plain_planner if _native.HOST is None else _native.HOST
    table = ranges(layout).table()
    counts = [int(runs[:, 1].sum()) for runs in global_runs(layout)]
    tiles, order = planner.query_tiles(table, rows, keys)
    units, runs, unit_order = planner.key_units(
        table, [layout.keys] * layout.batch_size, counts, rows, keys, unit_rows(layout.queries)
    )
    per_row = planner.row_bounds(table).reshape(layout.batch_size, layout.queries, 4) if bounds else None
    return Schedule((rows, keys), tiles, order, units, runs, unit_order, per_row)


def unit_rows(queries: int) -> int:
    """Rows after which the rows that see a block of G are cut: a block has at most `queries` / `unit_rows` units."""
    return max(UNIT_ROWS, -(-queries // UNITS))
