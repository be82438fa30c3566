"""Sets of keys, row by row, as masks are written: pieces that each show a row one interval, joined by `both` and `either`.

Everything here is exact, vectorised numpy over rows: nothing is probed, and no rows x keys array is made.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
# (rows, lo, lo_step, hi, hi_step, glo, ghi): row i of these attends to K[lo + i lo_step : hi + i hi_step) and G[glo : ghi).
Line = tuple[int, int, int, int, int, int, int]
# Beyond every key: pieces that have no bound of their own.
BEYOND = 1 << 40


class RowSets(NamedTuple):
    """int64 [n] each: row i attends to the keys lo .. hi, and places glo .. ghi of the list of global keys `members` int64 [G],
    in order. Until `settled` a key may stand in both."""

    lo: Ints
    hi: Ints
    glo: Ints
    ghi: Ints
    members: Ints


class TwoRanges(ValueError):
    """What rows attend to is not two ranges of keys."""


def interval(lo: Ints, hi: Ints) -> RowSets:
    none = np.zeros(len(lo), np.int64)
    return RowSets(lo, np.maximum(lo, hi), none, none, none[:0])


def everything(row: Ints) -> RowSets:
    return interval(np.zeros_like(row), np.full_like(row, BEYOND))


def causal(row: Ints) -> RowSets:
    """row int64 [n]: the number of each row."""
    return interval(np.zeros_like(row), row + 1)


def last(row: Ints, window: int) -> RowSets:
    """The row, the `window` - 1 keys before it, and all behind it."""
    return interval(np.maximum(row - window + 1, 0), np.full_like(row, BEYOND))


def around(row: Ints, reach: int) -> RowSets:
    """Keys at most `reach` before and behind the row."""
    return interval(np.maximum(row - reach, 0), row + reach + 1)


def chunk(row: Ints, size: int, padding: int = 0) -> RowSets:
    """The row's own chunk of `size` rows, counted from behind the padding."""
    begin = (row - padding) // size * size + padding
    return interval(np.maximum(begin, 0), begin + size)


def groups(row: Ints, ids: Ints) -> RowSets:
    """Rows of one id of ids int64 [keys] attend to one another, wherever they stand; a negative id attends to nothing.

    Raises:
        TwoRanges: parts of one id stand among parts of another.
    """
    keys = len(ids)
    edges = np.flatnonzero(np.diff(ids)) + 1
    begin = np.concatenate([[0], edges]).astype(np.int64)[: max(1, keys)]
    end = np.append(begin[1:], keys)
    own = np.where(ids[begin] >= 0, ids[begin], -1) if keys else np.zeros(1, np.int64) - 1
    # [n], the run that a row stands in; rows behind the ids have none.
    run = np.searchsorted(begin, np.minimum(row, max(0, keys - 1)), side="right") - 1
    inside = (row < keys) & (own[run] >= 0)
    lo, hi = np.where(inside, begin[run], row), np.where(inside, end[run], row)
    ids_of_runs, several = np.unique(own, return_counts=True)
    apart = ids_of_runs[(several > 1) & (ids_of_runs >= 0)]
    if len(apart) == 0:
        return interval(lo, hi)
    in_parts = np.isin(ids, apart)
    members = np.flatnonzero(in_parts)
    of_member = ids[members]
    changes = np.flatnonzero(np.diff(of_member)) + 1
    starts = np.concatenate([[0], changes])
    if len(starts) != len(apart):
        raise TwoRanges("tokens of one block stand among tokens of another")
    # [len(apart)] places of each id in the list, by id
    order = np.argsort(of_member[starts])
    starts, ends = starts[order], np.append(starts[1:], len(members))[order]
    which = np.searchsorted(apart, own[run])
    which = np.minimum(which, len(apart) - 1)
    parted = inside & (apart[which] == own[run])
    none = np.zeros_like(row)
    return RowSets(lo, hi, np.where(parted, starts[which], none), np.where(parted, ends[which], none), members)


def bounded(sets: RowSets, row: Ints, window: int | None, chunk_size: int | None, padding: int = 0) -> RowSets:
    """`sets` inside the last `window` rows and the row's own chunk."""
    if window is not None:
        sets = both(sets, last(row, window))
    return sets if chunk_size is None else both(sets, chunk(row, chunk_size, padding))


def both(a: RowSets, b: RowSets) -> RowSets:
    """Keys that are in either of two sets at once."""
    if len(b.members):
        a, b = b, a
    if len(b.members):
        raise TwoRanges("blocks of several parts are cut by one another")
    lo = np.maximum(a.lo, b.lo)
    hi = np.maximum(lo, np.minimum(a.hi, b.hi))
    glo = np.maximum(a.glo, np.searchsorted(a.members, b.lo))
    ghi = np.maximum(glo, np.minimum(a.ghi, np.searchsorted(a.members, b.hi)))
    return RowSets(lo, hi, glo, ghi, a.members)


def either(a: RowSets, b: RowSets) -> RowSets:
    """Keys of one set and of the other.

    Raises:
        TwoRanges: there is a gap between what a row attends to of one and of the other.
    """
    if len(b.members):
        a, b = b, a
    if len(b.members):
        raise TwoRanges("there are blocks of several parts of two kinds")
    empty_a, empty_b = a.lo >= a.hi, b.lo >= b.hi
    apart = ~empty_a & ~empty_b & ((a.lo > b.hi) | (b.lo > a.hi))
    if apart.any():
        raise TwoRanges(
            f"row {int(np.flatnonzero(apart)[0])} attends to keys on both sides of others that it does not attend to"
        )
    lo = np.where(empty_a, b.lo, np.where(empty_b, a.lo, np.minimum(a.lo, b.lo)))
    hi = np.where(empty_a, b.hi, np.where(empty_b, a.hi, np.maximum(a.hi, b.hi)))
    return RowSets(lo, hi, a.glo, a.ghi, a.members)


def shifted(sets: RowSets, first: int) -> RowSets:
    """The same keys counted from key `first` on, without those before it."""
    if not first:
        return sets
    gone = int(np.searchsorted(sets.members, first))
    lo, hi, glo, ghi = (
        np.maximum(column, 0) for column in (sets.lo - first, sets.hi - first, sets.glo - gone, sets.ghi - gone)
    )
    return RowSets(lo, np.maximum(lo, hi), glo, ghi, sets.members[gone:] - first)


def settled(sets: RowSets, keys: int) -> RowSets:
    """Inside 0 .. keys, and no key of a row in both of its ranges.

    Raises:
        TwoRanges: a row attends to global keys before its range and behind it.
    """
    lo = np.clip(sets.lo, 0, keys)
    hi = np.clip(sets.hi, lo, keys)
    glo, ghi, members = sets.glo, sets.ghi, sets.members
    some = glo < ghi
    if not some.any():
        none = np.zeros_like(lo)
        return RowSets(lo, hi, none, none, members[:0])
    first, behind = np.searchsorted(members, lo), np.searchsorted(members, hi)
    # Places on the left and on the right of the row's range; an empty range has none between.
    left, right = np.minimum(np.maximum(first, glo), ghi), np.maximum(np.minimum(behind, ghi), glo)
    on_left, on_right = some & (glo < left), some & (right < ghi)
    twice = on_left & on_right & (left < right)
    within = twice & (behind - first == hi - lo)
    if (twice & ~within).any():
        row = int(np.flatnonzero(twice & ~within)[0])
        raise TwoRanges(f"row {row} attends to keys of its block before and behind the range around it")
    lo = np.where(within, hi, lo)
    begin = np.where(on_left | within, glo, right)
    end = np.where(on_right | within, ghi, left)
    begin, end = np.where(some & (begin < end), begin, 0), np.where(some & (begin < end), end, 0)
    # A row whose whole range is empty and on whose both sides members stand has both parts as one.
    whole = on_left & on_right & (left >= right)
    begin, end = np.where(whole, glo, begin), np.where(whole, ghi, end)
    return RowSets(lo, hi, begin, end, members)


def lines(sets: RowSets, row: Ints) -> tuple[Line, ...]:
    """The fewest lines (rows, lo, lo_step, hi, hi_step, glo, ghi) that say the same, row after row; steps are 0 or 1. Rows
    that attend to nothing of K say so from where they stand."""
    local = sets.lo < sets.hi
    # [4, n]
    columns = np.stack([np.where(local, sets.lo, row + 1), np.where(local, sets.hi, row + 1), sets.glo, sets.ghi])
    n = columns.shape[1]
    # [4, n - 1]
    steps = np.diff(columns)
    fits = (steps[:2] >= 0).all(0) & (steps[:2] <= 1).all(0) & (steps[2:] == 0).all(0) & (local[1:] == local[:-1])
    # [n - 2]: a line that goes from row i to i + 1 goes on to i + 2
    goes_on = fits[1:] & fits[:-1] & (steps[:2, 1:] == steps[:2, :-1]).all(0)
    ends = np.flatnonzero(~goes_on) + 2
    made: list[Line] = []
    at = 0
    while at < n:
        stop = at + 1
        lo_step = hi_step = 0
        if stop < n and fits[at]:
            place = np.searchsorted(ends, at + 2)
            stop = int(ends[place]) if place < len(ends) else n
            lo_step, hi_step = steps[:2, at].tolist()
        lo, hi, glo, ghi = columns[:, at].tolist()
        made.append((stop - at, lo, lo_step, hi, hi_step, glo, ghi))
        at = stop
    return tuple(made)


def consecutive(members: Ints) -> tuple[tuple[int, int], ...]:
    """A list of keys in order as (first, how many) that follow one another."""
    if len(members) == 0:
        return ()
    cuts = np.flatnonzero(np.diff(members) != 1) + 1
    first = members[np.concatenate([[0], cuts])]
    count = np.diff(np.concatenate([[0], cuts, [len(members)]]))
    return tuple(zip(first.tolist(), count.tolist(), strict=True))
