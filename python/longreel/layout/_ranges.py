"""Who attends to what: row r attends to K[lo_r : hi_r) and G[glo_r : ghi_r), bounds affine in the row within a range segment.

G lists the global keys of a sample, ordered by document, then position. No row meets a key in both of its ranges.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from longreel.layout.row_sets import Line
from longreel.layout.segments import PADDING, PREFIX, VOCO, VST, Columns, Document, chunk_of
from longreel.layout.video_layout import VideoLayout

Ints = NDArray[np.int64]


class Ranges(NamedTuple):
    """Columns [R], one entry per range segment, in the order of the query rows. Query row `row + i`, 0 <= i < `rows`, of
    `sample` attends to K[lo_i : hi_i) and G[glo : ghi) (and is the token at position hi_i - 1 where its rule is causal), where
    lo_i = lo + i * lo_step (lo_step is 0 or 1) and hi_i = hi + floor((i * up + carry) / over)."""

    sample: Ints
    row: Ints
    rows: Ints
    lo: Ints
    lo_step: Ints
    hi: Ints
    up: Ints
    carry: Ints
    over: Ints
    glo: Ints
    ghi: Ints

    def table(self) -> Ints:
        """int64 [R, 11], what the planner takes."""
        return np.ascontiguousarray(np.stack(self, axis=1))


class Lowered(NamedTuple):
    """A document: its ranges, and its global keys as ranges [n, 3] of (first row, count, stride); where the
    rows are grouped, the last `vst_lines` range segments are the VST rows."""

    ranges: Ranges
    global_keys: Ints
    vst_lines: int = 0


class RowBounds(NamedTuple):
    """int32 [B, Sq] each: query row r attends to K[lo : hi) and G[glo : ghi)."""

    lo: NDArray[np.int32]
    hi: NDArray[np.int32]
    glo: NDArray[np.int32]
    ghi: NDArray[np.int32]


def ranges(layout: VideoLayout) -> Ranges:
    """The range segments of every query row of the layout: O(segments), no per-row array."""
    parts = []
    for b, documents in enumerate(layout.samples):
        start, global_end, tails = 0, 0, []
        for document in documents:
            lowered = lower(document, layout.order == "grouped")
            own = lowered.ranges
            own = own._replace(
                sample=own.sample + b,
                lo=own.lo + start,
                hi=own.hi + start,
                glo=own.glo + global_end,
                ghi=own.ghi + global_end,
            )
            head = len(own.rows) - lowered.vst_lines
            parts.append(Ranges(*(column[:head] for column in own)))
            tails.append(Ranges(*(column[head:] for column in own)))
            start += document.length
            global_end += int(lowered.global_keys[:, 1].sum())
        parts += tails
    whole = joined_ranges(parts)
    before = np.cumsum(whole.rows) - whole.rows
    whole = whole._replace(row=before - before[np.searchsorted(whole.sample, whole.sample)])
    if layout.window is None:
        return whole
    own = clipped(whole, *layout.window)
    if not any(document.rule.attention == "ranges" for documents in layout.samples for document in documents):
        return own
    return _without_later(own, layout)


def row_bounds(layout: VideoLayout) -> RowBounds:
    """Bounds of every query row, as arrays: O(rows)."""
    columns = expanded_bounds(ranges(layout)).T
    return RowBounds(*(column.reshape(layout.batch_size, layout.queries) for column in columns))


def expanded_bounds(r: Ranges) -> NDArray[np.int32]:
    """int32 [rows, 4]: lo, hi, glo, ghi of every row of the range segments, in their order."""
    which = np.repeat(np.arange(len(r.rows)), r.rows)
    # [rows], the row's place in its range segment
    i = np.arange(len(which)) - np.repeat(np.cumsum(r.rows) - r.rows, r.rows)
    lo = r.lo[which] + i * r.lo_step[which]
    hi = r.hi[which] + (i * r.up[which] + r.carry[which]) // r.over[which]
    return np.stack([lo, hi, r.glo[which], r.ghi[which]], axis=1).astype(np.int32)


def lower(document: Document, grouped: bool = False) -> Lowered:
    """Ranges and global keys of one document, counted from its own start; `grouped`: visual and text rows, then VST rows."""
    if document.padding:
        return Lowered(_nothing(0, document.length), _no_keys())
    attention = document.rule.attention
    columns = document.columns()
    if attention == "ranges":
        return _given(document)
    if attention == "vst":
        return _vst(document, columns, grouped)
    if attention == "text" or not (columns.kind == VOCO).any():
        return _text(document)
    return _image(document, columns) if attention == "image" else _frames(document, columns)


def prefix_rows(columns: Columns) -> int:
    """Rows of the leading prefix segments."""
    after = np.flatnonzero(columns.kind != PREFIX)
    return int(columns.start[after[0]]) if len(after) else int(columns.length.sum())


class Frames(NamedTuple):
    """VoCo groups of a document [F]: rows begin .. end are the frame, its VoCo rows are voco .. end."""

    begin: Ints
    voco: Ints
    end: Ints


def frames_of(columns: Columns) -> Frames:
    """Frames end with their last VoCo row; the first begins after the prefix, the others where the one before ends."""
    voco = columns.kind == VOCO
    first = voco & ~np.concatenate([[False], voco[:-1]])
    last = voco & ~np.concatenate([voco[1:], [False]])
    end = (columns.start + columns.length)[last]
    return Frames(np.concatenate([[prefix_rows(columns)], end[:-1]]), columns.start[first], end)


def _lines(
    position: Ints | int, rows: Ints | int, *, lo: Ints | int, lo_step: int = 0,
    up: Ints | int = 1, carry: Ints | int = 0, over: Ints | int = 1, glo: Ints | int = 0, ghi: Ints | int = 0,
) -> Ranges:  # fmt: skip
    """Range segments from the token of their first row; `sample` and `row` are filled in by the layout."""
    hi = np.asarray(position, np.int64) + 1
    columns = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(x, np.int64)) for x in (0, 0, rows, lo, lo_step, hi, up, carry, over, glo, ghi))
    )
    some = columns[2] > 0
    return Ranges(*(column[some] for column in columns))


def _nothing(position: int, rows: int) -> Ranges:
    """Rows that attend to nothing."""
    return _lines(position, rows, lo=position + 1, lo_step=1)


def joined_ranges(parts: Sequence[Ranges]) -> Ranges:
    return Ranges(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _no_keys() -> Ints:
    return np.zeros((0, 3), np.int64)


def _text(document: Document) -> Lowered:
    length, rule = document.length, document.rule
    window, sinks = rule.window or length, min(rule.sinks, length)
    # Rows whose window reaches the sinks attend to one range; G serves the others.
    local = min(length, window + sinks)
    if local == length:
        return Lowered(_lines(0, length, lo=0), _no_keys())
    global_ = _lines(local, length - local, lo=local - window + 1, lo_step=1, ghi=sinks)
    return Lowered(
        joined_ranges([_lines(0, local, lo=0), global_]), np.array([(0, sinks, 1)] if sinks else _no_keys(), np.int64)
    )


def of_lines(lines: Sequence[Line]) -> Ranges:
    """Range segments of one sample, row after row."""
    # [7, lines]
    rows, lo, lo_step, hi, hi_step, glo, ghi = np.array(lines, np.int64).T
    zero, one = np.zeros_like(rows), np.ones_like(rows)
    return Ranges(zero, np.cumsum(rows) - rows, rows, lo, lo_step, hi, hi_step, zero, one, glo, ghi)


def _given(document: Document) -> Lowered:
    own = of_lines(document.lines)
    keys = np.array([(first, count, 1) for first, count in document.members], np.int64).reshape(-1, 3)
    return Lowered(own, keys)


def _image(document: Document, columns: Columns) -> Lowered:
    frames = frames_of(columns)
    first, end = int(frames.voco[0]), int(frames.end[-1])
    prefix = prefix_rows(columns) if document.rule.text_sees_prefix else 0
    text = _lines(end, document.length - end, lo=first, ghi=prefix)
    keys = np.array([(0, prefix, 1)], np.int64) if prefix else _no_keys()
    return Lowered(joined_ranges([_lines(0, end, lo=0), text]), keys)


def _frames(document: Document, columns: Columns) -> Lowered:
    rule, frames = document.rule, frames_of(columns)
    is_global = rule.frames_see_prefix or rule.text_sees_prefix
    prefix = prefix_rows(columns) if is_global else 0
    counts = frames.end - frames.voco
    # G of the document: the prefix where some row attends to it from anywhere, then the VoCo rows.
    earlier = prefix + np.cumsum(counts) - counts
    glo = 0 if rule.frames_see_prefix else prefix
    ghi = earlier if rule.attention == "causal" else np.full_like(earlier, prefix)
    # The first frame and the prefix before it are one causal range.
    begin, ghi = frames.begin.copy(), np.maximum(ghi, glo)
    begin[0], ghi[0] = 0, glo
    end, global_end = int(frames.end[-1]), int(prefix + counts.sum())
    own = _lines(begin, frames.end - begin, lo=begin, glo=glo, ghi=ghi)
    padding = _nothing(end, int(columns.length[columns.kind == PADDING].sum()))
    begin_text = end + int(padding.rows.sum())
    first_global = 0 if rule.text_sees_prefix else prefix
    text = _lines(begin_text, document.length - begin_text, lo=begin_text, glo=first_global, ghi=global_end)
    voco = np.stack([frames.voco, counts, np.ones_like(counts)], axis=1)
    keys = np.concatenate([np.array([(0, prefix, 1)], np.int64), voco]) if prefix else voco
    return Lowered(joined_ranges([own, padding, text]), keys)


def _vst(document: Document, columns: Columns, grouped: bool) -> Lowered:
    chunks = [chunk_of(segment) for segment in document.segments if segment.kind == "vst"]
    at = columns.kind == VST
    start, length, ratio, carry = (x[at] for x in (columns.start, columns.length, columns.ratio, columns.carry))
    visual, vst, first = (np.array([getattr(c, name) for c in chunks], np.int64) for name in ("visual", "vst", "first"))
    prefix = prefix_rows(columns)
    end = int(start[-1] + length[-1]) if len(chunks) else prefix
    earlier, global_end = prefix + np.cumsum(vst) - vst, int(prefix + vst.sum())
    before = _lines(0, prefix, lo=0)
    after = _lines(end, document.length - end, lo=end, ghi=global_end)
    keys = np.concatenate([np.array([(0, prefix, 1)], np.int64), np.stack([start + first, vst, ratio + 1], axis=1)])
    keys = keys[keys[:, 1] > 0]
    if not grouped:
        return Lowered(joined_ranges([before, _lines(start, length, lo=start, ghi=earlier), after]), keys)
    raw = _lines(start, visual, lo=start, up=ratio + 1, carry=carry, over=ratio, ghi=earlier)
    vst_rows = _lines(start + first, vst, lo=start, up=ratio + 1, ghi=earlier)
    return Lowered(joined_ranges([before, raw, after, vst_rows]), keys, len(vst_rows.rows))


def clipped(whole: Ranges, first: int, last: int) -> Ranges:
    """Query rows first .. last only, numbered from 0."""
    begin = np.maximum(whole.row, first)
    rows = np.minimum(whole.row + whole.rows, last) - begin
    skip = begin - whole.row
    carry = skip * whole.up + whole.carry
    cut = whole._replace(
        row=begin - first, rows=rows, lo=whole.lo + skip * whole.lo_step,
        hi=whole.hi + carry // whole.over, carry=carry % whole.over,
    )  # fmt: skip
    some = rows > 0
    return Ranges(*(column[some] for column in cut))


def _without_later(own: Ranges, layout: VideoLayout) -> Ranges:
    """Rows of blocks attend to later keys: none from the layout's last on, which it does not have yet."""
    last = layout.keys
    there = []
    for documents in layout.samples:
        start = count = 0
        for document in documents:
            for first, keys, stride in lower(document).global_keys.tolist():
                count += min(keys, max(0, -(-(last - start - first) // stride)))
            start += document.length
        there.append(count)
    places = np.array(there, np.int64)[own.sample]
    glo, ghi = np.minimum(own.glo, places), np.minimum(own.ghi, places)
    none = glo >= ghi
    own = own._replace(glo=np.where(none, 0, glo), ghi=np.where(none, 0, ghi))
    # A line that rises beyond the last key is level from there on.
    rises = own.up > 0
    below: Ints = np.where(rises, np.clip(last - own.hi, 0, own.rows), own.rows).astype(np.int64)
    head = own._replace(rows=below, hi=np.where(rises, own.hi, np.minimum(own.hi, last)))
    level = own._replace(
        row=own.row + below, rows=own.rows - below, lo=own.lo + below * own.lo_step,
        hi=np.full_like(own.hi, last), up=np.zeros_like(own.up),
    )  # fmt: skip
    # [2 R], a line and what is level of it side by side
    both = Ranges(*(np.stack(pair, 1).reshape(-1) for pair in zip(head, level, strict=True)))
    some = both.rows > 0
    return Ranges(*(column[some] for column in both))
