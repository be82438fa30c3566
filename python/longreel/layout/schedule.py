"""The tile schedule of a layout: which rows meet which keys, tile by tile, for forward and backward kernels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


def unit_rows(queries: int) -> int:
    """Rows after which the rows that see a block of G are cut: a block has at most `queries` / `unit_rows` units."""
    return max(UNIT_ROWS, -(-queries // UNITS))
