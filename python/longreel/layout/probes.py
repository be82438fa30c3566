"""Ranges of a mask that is only a function: where they begin and end is asked for, O(N log N) pairs, never N x N."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from longreel.layout import row_sets
from longreel.layout.numbers import MOST_ROWS, count
from longreel.layout.row_sets import Ints, RowSets, TwoRanges

Bools = NDArray[np.bool_]
# Rows that are asked about every key, to find global ones; pairs a row that the result is checked on.
SCANNED, CHECKED = 24, 8


@dataclass(frozen=True)
class Probe:
    """mask_function(b, h, q, k), of tensors of one shape or under vmap of single numbers, True = row q attends to key k. Rows
    and keys count from key `dropped`, of which there are `keys`."""

    function: Callable[..., Any]
    sample: int
    keys: int
    device: Any
    dropped: int = 0
    vmap: bool = False

    def visible(self, row: Ints, key: Ints) -> Bools:
        """bool [n] of int [n] each; a key that there is not is visible to none."""
        inside = (key >= 0) & (key < self.keys)
        q, k = (
            torch.from_numpy(np.ascontiguousarray(at + self.dropped)).to(self.device)
            for at in (row, np.where(inside, key, 0))
        )
        b, h = torch.full_like(q, self.sample), torch.zeros_like(q)
        function = torch.vmap(self.function, in_dims=(0, 0, 0, 0)) if self.vmap else self.function
        return _answers(function(b, h, q, k), q.shape) & inside


def _answers(found: Any, shape: torch.Size) -> Bools:
    """What a mask function gives, for every pair that it was asked."""
    known = isinstance(found, torch.Tensor | np.ndarray | np.generic | bool | int)
    values = torch.as_tensor(found) if known else torch.empty(0)
    if values.is_floating_point() or values.is_complex():
        given = str(values.dtype) if known else type(found).__name__
        raise TypeError(f"mask_function(b, h, q, k) gives {given}; allowed: bool, True where row q attends to key k")
    if values.dim() and values.shape not in (shape, (1,)):
        raise ValueError(
            f"mask_function(b, h, q, k) gives {list(values.shape)} for rows and keys of {list(shape)}; allowed: as many"
        )
    answers: Bools = values.broadcast_to(shape).to("cpu", torch.bool).numpy()
    return answers


def probed(probe: Probe, row: Ints) -> RowSets:
    """What the rows int64 [n] attend to.

    Raises:
        TwoRanges: one range of keys and one of a list of global keys do not hold it.
    """
    if len(row) == 0:
        return row_sets.interval(row, row)
    own = probe.visible(row, row)
    hi = np.where(own, _ends(probe, row, own), row)
    lo = np.where(own, _nearer(probe, row, _begins(probe, row, own)), row)
    scanned, found = _scan(probe, row, lo, hi)
    key = np.arange(probe.keys)
    outside = (key < lo[scanned, None]) | (key >= hi[scanned, None])
    members = np.flatnonzero((outside & found).any(0))
    glo, ghi = _places(probe, row, lo, hi, members)
    sets = RowSets(lo, hi, glo, ghi, members)
    for i, every in zip(scanned.tolist(), found, strict=True):
        one = RowSets(lo[i : i + 1], hi[i : i + 1], glo[i : i + 1], ghi[i : i + 1], members)
        _compare(np.full_like(key, row[i]), key, every, one, probe.keys)
    _check(probe, row, sets)
    return sets


def _ends(probe: Probe, row: Ints, own: Bools) -> Ints:
    """Behind the keys that follow a row and that it attends to: with rows that attend to their next one to the end of a block."""
    goes_on = own & probe.visible(row, row + 1)
    stops = np.where(goes_on, probe.keys, row + 1)
    guess = np.minimum.accumulate(stops[::-1])[::-1]
    right = probe.visible(row, guess - 1) & ~probe.visible(row, guess)
    # Else somewhere between: a window on this side too.
    inside, outside = row.copy(), np.where(right, row + 1, guess)
    return np.where(right, guess, _between(probe, row, inside, outside))


def _begins(probe: Probe, row: Ints, own: Bools) -> Ints:
    return -_between(probe, row, np.where(own, row, 0), np.full_like(row, -1), -1)


def _between(probe: Probe, row: Ints, inside: Ints, outside: Ints, side: int = 1) -> Ints:
    """By halves, the end of what a row attends to from `inside` (exclusive, times `side`); `outside` is taken for the latter."""
    while (np.abs(outside - inside) > 1).any():
        middle = (inside + outside) // 2
        open_ = np.abs(outside - inside) > 1
        yes = probe.visible(row, middle)
        inside = np.where(open_ & yes, middle, inside)
        outside = np.where(open_ & ~yes, middle, outside)
    return outside if side == 1 else -inside


def _nearer(probe: Probe, row: Ints, lo: Ints) -> Ints:
    """By halves a gap of a few keys is missed; where the rows beside found it, it is looked for there."""
    shifted = np.concatenate([lo[1:], lo[-1:]]), np.concatenate([lo[:1], lo[:-1]])
    for guess in (shifted[0] - 1, shifted[1] + 1, *shifted):
        ends = (lo < guess) & (guess <= row) & probe.visible(row, guess) & ~probe.visible(row, guess - 1)
        lo = np.where(ends, guess, lo)
    return lo


def _scan(probe: Probe, row: Ints, lo: Ints, hi: Ints) -> tuple[Ints, Bools]:
    """Places [m] of rows that are asked about every key, and their answers [m, keys]: evenly spaced ones, the first of a few
    blocks, and those that attend to the first or last key outside their range."""
    spread = np.linspace(0, len(row) - 1, min(SCANNED, len(row))).astype(np.int64)
    starts = np.flatnonzero((hi > row + 1) & np.concatenate([[True], hi[1:] != hi[:-1]]))[:4]
    outer = [
        np.flatnonzero(((key < lo) | (key >= hi)) & probe.visible(row, np.full_like(row, key)))[:1]
        for key in (0, probe.keys - 1)
    ]
    scanned = np.unique(np.concatenate([spread, starts, *outer]))
    key = np.arange(probe.keys)
    return scanned, np.stack([probe.visible(np.full_like(key, row[i]), key) for i in scanned])


def _places(probe: Probe, row: Ints, lo: Ints, hi: Ints, members: Ints) -> tuple[Ints, Ints]:
    """The places of `members` that every row attends to outside its range: those behind it from the next on, or those before it,
    to the last or from the first on."""
    none = np.zeros_like(row)
    if len(members) == 0:
        return none, none
    # A place before the first and one behind the last are no keys.
    key_at = np.concatenate([[-1], members, [-1]])

    def visible(place: Ints) -> Bools:
        return probe.visible(row, key_at[place + 1])

    left, right = np.searchsorted(members, lo), np.searchsorted(members, hi)
    behind = (right < len(members)) & visible(np.minimum(right, len(members)))
    last_before, first = (left > 0) & visible(left - 1), (left > 0) & visible(none)
    # By halves between a visible place and one that is not.
    ends_behind = _halved(visible, np.where(behind, right, 0), np.where(behind, len(members), 1))
    begins_before = _halved(visible, np.where(last_before, left - 1, 0), np.where(last_before, -1, 1))
    ends_before = _halved(visible, none, np.where(first, np.maximum(left, 1), 1))
    before = last_before | first
    glo = np.where(last_before, begins_before, none)
    ghi = np.where(last_before, left, np.where(first, ends_before + 1, none))
    both = before & behind
    if (both & (~last_before | (left != right) & (right - left != hi - lo))).any():
        raise TwoRanges(
            f"row {int(row[np.flatnonzero(both)[0]])} attends to keys before and behind the range around it"
        )
    glo = np.where(behind & ~before, right, glo)
    return glo, np.where(behind, ends_behind + 1, np.where(before, ghi, glo))


def _halved(visible: Callable[[Ints], Bools], inside: Ints, outside: Ints) -> Ints:
    """The last place that is inside, on the way from `inside` to `outside`."""
    while (np.abs(outside - inside) > 1).any():
        middle = (inside + outside) // 2
        open_ = np.abs(outside - inside) > 1
        yes = visible(middle)
        inside, outside = np.where(open_ & yes, middle, inside), np.where(open_ & ~yes, middle, outside)
    return inside


def _check(probe: Probe, row: Ints, sets: RowSets) -> None:
    """At every bound, at those of the rows beside, and at CHECKED random keys a row, half of them around it."""
    rng = np.random.default_rng(0)
    key_at = np.concatenate([[-1], sets.members, [-1]])
    some = sets.glo < sets.ghi
    at = [sets.lo - 1, sets.lo, sets.hi - 1, sets.hi]
    at += [key_at[np.where(some, place + 1, 0)] for place in (sets.glo - 1, sets.glo, sets.ghi - 1, sets.ghi)]
    at += [np.roll(bound, step) + off for bound in sets[:2] for step in (-1, 1) for off in (-2, -1, 0)]
    at += [rng.integers(0, probe.keys, len(row)) for _ in range(CHECKED // 2)]
    at += [row + rng.integers(-64, 65, len(row)) for _ in range(CHECKED // 2)]
    for key in at:
        _compare(row, key, probe.visible(row, key), sets, probe.keys)


def _compare(row: Ints, key: Ints, visible: Bools, sets: RowSets, keys: int) -> None:
    """Rows attend to the keys that `sets`, of each row or of one, say.

    Raises:
        TwoRanges: one does not.
    """
    inside = (key >= 0) & (key < keys)
    place = np.searchsorted(sets.members, key)
    known = np.zeros_like(inside)
    if len(sets.members):
        known = inside & (sets.members[np.minimum(place, len(sets.members) - 1)] == key)
    expected = inside & (((sets.lo <= key) & (key < sets.hi)) | (known & (sets.glo <= place) & (place < sets.ghi)))
    wrong = np.flatnonzero(visible != expected)
    if len(wrong):
        does = "does not attend" if expected[wrong[0]] else "attends"
        raise TwoRanges(
            f"row {int(row[wrong[0]])} {does} to key {int(key[wrong[0]])}, which is"
            " more than one range of keys around a row and one of global keys say"
        )


def from_mask(
    mask_function: Callable[..., Any], length: int, batch: int, device: Any, vmap: bool
) -> list[tuple[int, RowSets]]:
    """Per sample the number of rows and what they attend to."""
    if not callable(mask_function):
        raise TypeError(f"mask_function is a {type(mask_function).__name__}; allowed: a function f(b, h, q, k) -> bool")
    length, batch = count("length", length, most=MOST_ROWS), count("batch", batch)
    row = np.arange(length)
    return [(length, probed(Probe(mask_function, b, length, device, vmap=vmap), row)) for b in range(batch)]
