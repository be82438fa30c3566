"""The planner in plain numpy, from per-row bounds: the arrays of csrc/layout, for installations without native code."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from longreel.layout._ranges import Ints, Ranges, expanded_bounds

Table = NDArray[np.int32]
TileRange = tuple[int, int, int, int]
# The CPU's strips have fewer rows, and multiply no more keys than those attend to: borders cost them nothing.
LEAST_ACROSS = 17
# Range segments whose rows are filled into tiles together before a tile stops at a border again: three frames of 145 rows
# are nearly seven tiles of 64. None: all of them.
TOGETHER = (None, 2, 3, 5, 7)


def row_bounds(table: Ints) -> Table:
    """Range segments int64 [R, 11] -> int32 [rows, 4]: lo, hi, glo, ghi of every row."""
    return expanded_bounds(Ranges(*table.T))


def query_tiles(table: Ints, tile_rows: int, tile_keys: int) -> tuple[Table, Table]:
    """tiles [T, 12] and their order [T]: cut at borders of range segments, or filled across all or some of them, whichever is
    fewest steps."""
    bounds = row_bounds(table).astype(np.int64)
    tiles, costs = _tiles(_tile_rows(table, bounds, tile_rows), bounds, tile_keys)
    for together in TOGETHER if tile_rows >= LEAST_ACROSS else ():
        across, costs_across = _tiles(_full_tile_rows(table, bounds, tile_rows, together), bounds, tile_keys)
        if sum(costs_across) < sum(costs):
            tiles, costs = across, costs_across
    return _table(tiles, 12), heavy_first(costs)


def _tiles(
    cuts: Iterator[tuple[int, int, int, int]], bounds: Ints, tile_keys: int
) -> tuple[list[tuple[int, ...]], list[int]]:
    """The tiles of these rows, and the steps of each."""
    tiles: list[tuple[int, ...]] = []
    costs, first = [], 0
    for sample, row, rows, segment in cuts:
        own = bounds[first : first + rows]
        local, global_ = _common(own[:, 0], own[:, 1], tile_keys), _common(own[:, 2], own[:, 3], tile_keys)
        tiles.append((sample, row, row + rows, segment, *local, *global_))
        costs.append(sum(-(-(own[3] - own[0]) // tile_keys) for own in (local, global_)))
        first += rows
    return tiles, costs


def kv_blocks(
    table: Ints, keys: Sequence[int], global_keys: Sequence[int], tile_rows: int, tile_keys: int, block_rows: int
) -> tuple[Table, Table, Table]:
    """kv_blocks [U, 6], query_ranges [N, 4] and kv_order [U]."""
    bounds = row_bounds(table).astype(np.int64)
    blocks: list[tuple[int, ...]] = []
    ranges: list[TileRange] = []
    for is_global, counts in ((0, keys), (1, global_keys)):
        for sample, count in enumerate(counts):
            cuts = [0, count] if is_global else sorted({0, count, *_key_cuts(table, sample)})
            for a, b in pairwise(cuts):
                for begin in range(a, b, tile_keys):
                    end = min(b, begin + tile_keys)
                    own_ranges = _merged(_rows_of_keys(table, bounds, sample, is_global, begin, end))
                    for group in _split(own_ranges, block_rows if is_global else None):
                        blocks.append((sample, is_global, begin, end, len(ranges), len(ranges) + len(group)))
                        ranges += [_stepped(own, tile_rows) for own in group]
    costs = [sum(-(-(own[3] - own[0]) // tile_rows) for own in ranges[block[4] : block[5]]) for block in blocks]
    return _table(blocks, 6), _table(ranges, 4), heavy_first(costs)


def heavy_first(costs: Sequence[int]) -> Table:
    """Powers of two, heavy first; places in order within one."""
    return np.array(sorted(range(len(costs)), key=lambda i: -costs[i].bit_length()), np.int32)


def _tile_rows(table: Ints, bounds: Ints, most: int) -> Iterator[tuple[int, int, int, int]]:
    """(sample, first row, rows, first range segment): parts of one range segment, or several short ones together."""
    open_tile: tuple[int, int, int, int] | None = None
    first = 0
    for index, segment in enumerate(Ranges(*column) for column in table.tolist()):
        sample, row, rows = int(segment.sample), int(segment.row), int(segment.rows)
        if open_tile is not None:
            together = bounds[first - open_tile[2] : first + rows]
            if sample == open_tile[0] and open_tile[2] + rows <= most and _touching(together):
                open_tile = (*open_tile[:2], open_tile[2] + rows, open_tile[3])
                first += rows
                continue
            yield open_tile
            open_tile = None
        if rows > most:
            yield from ((sample, row + at, min(most, rows - at), index) for at in range(0, rows, most))
        else:
            open_tile = (sample, row, rows, index)
        first += rows
    if open_tile is not None:
        yield open_tile


def _full_tile_rows(table: Ints, bounds: Ints, most: int, together: int | None) -> Iterator[tuple[int, int, int, int]]:
    """The same of tiles filled with rows of neighbours, up to a gap in what they attend to, or to the end of so many segments."""
    tile: tuple[int, int, int, int] | None = None
    first = 0
    for index, segment in enumerate(Ranges(*column) for column in table.tolist()):
        sample, row, rows = int(segment.sample), int(segment.row), int(segment.rows)
        if tile is not None and together and index % together == 0:
            yield tile
            tile = None
        at = 0
        while at < rows:
            take = min(rows - at, most if tile is None else most - tile[2])
            if tile is not None and (
                sample != tile[0] or not _touching(bounds[first + at - tile[2] : first + at + take])
            ):
                yield tile
                tile = None
                continue
            tile = (sample, row + at, take, index) if tile is None else (*tile[:2], tile[2] + take, tile[3])
            at += take
            if tile[2] == most:
                yield tile
                tile = None
        first += rows
    if tile is not None:
        yield tile


def _touching(bounds: Ints) -> bool:
    """Whether what the rows attend to in K, and in G, has no gap."""
    for lo, hi in ((bounds[:, 0], bounds[:, 1]), (bounds[:, 2], bounds[:, 3])):
        reached = None
        for a, b in sorted((int(a), int(b)) for a, b in zip(lo, hi, strict=True) if a < b):
            if reached is not None and a > reached:
                return False
            reached = b if reached is None else max(b, reached)
    return True


def _common(lo: Ints, hi: Ints, step: int) -> TileRange:
    """The keys that some row attends to, and those that every row attends to, in whole steps from the first."""
    some = lo < hi
    if not some.any():
        return (0, 0, 0, 0)
    begin, end = int(lo[some].min()), int(hi[some].max())
    full = (int(lo.max()), int(hi.min())) if some.all() else (begin, begin)
    return _stepped((begin, *full, end), step)


def _stepped(own: TileRange, step: int) -> TileRange:
    begin, full_begin, full_end, end = own
    full_begin = begin + -(-max(0, full_begin - begin) // step) * step
    full_end = full_begin + max(0, full_end - full_begin) // step * step
    return (begin, full_begin, full_end, end) if full_begin < full_end else (begin, begin, begin, end)


def _key_cuts(table: Ints, sample: int) -> set[int]:
    cuts = set()
    for r in (Ranges(*column) for column in table.tolist()):
        has_keys = r.lo < r.hi + r.carry // r.over
        if r.sample == sample and not (has_keys and r.lo_step):
            cuts.add(int(r.lo if has_keys else r.lo - 1))
    return cuts


def _rows_of_keys(
    table: Ints, bounds: Ints, sample: int, is_global: int, begin: int, end: int
) -> Iterator[tuple[int, int, int, int]]:
    """Per range segment the rows that attend to some key of begin .. end, and those that attend to all of them."""
    first = 0
    for r in (Ranges(*column) for column in table.tolist()):
        own = bounds[first : first + int(r.rows)]
        first += int(r.rows)
        lo, hi = (own[:, 2], own[:, 3]) if is_global else (own[:, 0], own[:, 1])
        some = np.flatnonzero((lo < end) & (hi > begin) & (lo < hi))
        if r.sample != sample or len(some) == 0:
            continue
        whole = np.flatnonzero((lo <= begin) & (hi >= end))
        row = int(r.row)
        a, b = row + int(some[0]), row + int(some[-1]) + 1
        yield (a, row + int(whole[0]), row + int(whole[-1]) + 1, b) if len(whole) else (a, b, b, b)


def _merged(own_ranges: Iterator[TileRange]) -> list[TileRange]:
    out: list[TileRange] = []
    for own in own_ranges:
        last = out[-1] if out else None
        if last and last[3] == own[0] and last[2] == last[3] and own[1] == own[0]:
            out[-1] = (last[0], last[1], own[2], own[3])
        else:
            out.append(own)
    return out


def _split(own_ranges: list[TileRange], most: int | None) -> list[list[TileRange]]:
    if most is None:
        return [own_ranges]
    groups: list[list[TileRange]] = [[]]
    room = most
    for begin, full_begin, full_end, end in own_ranges:
        while end - begin > room:
            cut = begin + room
            if room:
                groups[-1].append((begin, min(full_begin, cut), min(full_end, cut), cut))
            groups.append([])
            begin, full_begin, room = cut, max(full_begin, cut), most
        room -= end - begin
        groups[-1].append((begin, full_begin, full_end, end))
    return groups


def _table(rows: Sequence[tuple[int, ...]], columns: int) -> Table:
    return np.array(rows, np.int32).reshape(-1, columns)
