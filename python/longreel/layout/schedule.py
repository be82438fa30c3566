"""The tile schedule of a layout: which rows meet which keys, tile by tile, for forward and backward kernels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.int32]

# Keys of G are summed by several workers, each over at least so many rows, by so many workers at most.
BLOCK_ROWS, BLOCK_SHARES = 4096, 8


@dataclass(frozen=True, eq=False)
class Schedule:
    """Int32 arrays. A range is (begin, full_begin, full_end, end): walked in steps of the tile from begin, the steps in
    full_begin .. full_end are whole tiles that attend to one another entirely, all others need the rows' own bounds.

    tile: (query rows, keys) of a tile.
    tiles [T, 12]: sample, first row, last row + 1, first range segment, range of keys in K (4), range of keys in G (4).
      Every query row is in exactly one tile; an empty range is (0, 0, 0, 0).
    order [T]: tiles, heavy before light, neighbours together.
    kv_blocks [U, 6]: sample, is_global, first key, last key + 1 (in K or in G), first query range, last query range + 1.
      Every key of K is in exactly one; keys of G may be in several with query rows of their own, one behind the other,
      whose sums are added in that order.
    query_ranges [N, 4]: ranges of query rows that attend to the block's keys.
    kv_order [U]: kv_blocks, heavy before light.
    bounds [B, Sq, 4]: lo, hi, glo, ghi of every query row, or None where they were not asked for.
    """

    tile: tuple[int, int]
    tiles: Table
    order: Table
    kv_blocks: Table
    query_ranges: Table
    kv_order: Table
    bounds: Table | None

    @property
    def nbytes(self) -> int:
        arrays = (self.tiles, self.order, self.kv_blocks, self.query_ranges, self.kv_order, self.bounds)
        return sum(array.nbytes for array in arrays if array is not None)


def block_rows(queries: int) -> int:
    """Rows after which the rows that attend to a block of G are cut: there are at most
    `queries` / `block_rows` kv_blocks of the same keys."""
    return max(BLOCK_ROWS, -(-queries // BLOCK_SHARES))
