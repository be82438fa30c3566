"""Rotary positions of rows and of global keys."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from longreel.layout._ranges import frames_of, lower, prefix_rows, row_bounds
from longreel.layout.global_keys import global_index
from longreel.layout.segments import PADDING, VOCO, VST, Columns, Document, chunk_of
from longreel.layout.video_layout import VideoLayout

Mode = Literal["compact", "absolute"]


def positions(layout: VideoLayout, mode: Mode | None = None) -> NDArray[np.int32]:
    """[B, S] position of every row, in position order, counted from its document's start; padding rows have 0.

    Video-XL: rows of a chunk stand behind the prefix and the VST of earlier chunks, interleaved; text behind all VST.
    VoCo video: "compact" (the default) starts frame t at prefix + the VoCo rows before it, and text after the last frame;
    "absolute" counts rows. Everything else counts rows. Padding behind frames has 0 too, and is not counted.
    """
    out = np.zeros((layout.batch_size, layout.length), np.int32)
    for b, documents in enumerate(layout.samples):
        start = 0
        for document in documents:
            if not document.padding:
                out[b, start : start + document.length] = _of_document(document, mode)
            start += document.length
    return out


def query_positions(layout: VideoLayout, mode: Mode | None = None) -> NDArray[np.int32]:
    """[B, Sq] position of every query row, in the order of the query rows."""
    return np.take_along_axis(positions(layout, mode), query_rows(layout), axis=1)


def query_rows(layout: VideoLayout) -> NDArray[np.int32]:
    """[B, Sq]: the row (of 0 .. S) that every query row is."""
    if layout.order == "grouped":
        # These rules are causal: a row's keys end with itself.
        return row_bounds(layout).hi - 1
    first = 0 if layout.window is None else layout.window[0]
    row = np.arange(first, first + layout.queries, dtype=np.int32)
    return np.ascontiguousarray(np.broadcast_to(row, (layout.batch_size, layout.queries)))


def global_positions(layout: VideoLayout, mode: Mode | None = None) -> NDArray[np.int32]:
    """[B, G] position at which rows of later segments attend to every global key, -1 where `global_index` pads.

    Video-XL: its place among prefix and VST for ever (not the place it had in its own chunk). Otherwise the row's own.
    """
    index = global_index(layout)
    own = np.take_along_axis(positions(layout, mode), np.maximum(index, 0), axis=1)
    for b, documents in enumerate(layout.samples):
        place = 0
        for document in documents:
            count = int(lower(document).global_keys[:, 1].sum())
            if document.rule.attention == "vst":
                own[b, place : place + count] = np.arange(count)[: max(0, index.shape[1] - place)]
            place += count
    return np.where(index < 0, np.int32(-1), own)


def _of_document(document: Document, mode: Mode | None) -> NDArray[np.int64]:
    attention, columns = document.rule.attention, document.columns()
    video = attention in ("independent", "causal") and bool((columns.kind == VOCO).any())
    if mode == "absolute" and attention == "vst":
        raise ValueError("positions='absolute': Video-XL's positions are those of its memory")
    if mode == "compact" and attention == "image":
        raise ValueError("positions='compact': images keep absolute positions")
    if mode not in (None, "compact", "absolute"):
        raise ValueError(f"positions={mode!r} is not one of 'compact', 'absolute'")
    # Runs of rows that count up by one: first row, and the position of that row.
    if attention == "vst":
        row, position = _vst_runs(document, columns)
    elif video and mode != "absolute":
        row, position = _compact_runs(columns)
    else:
        return _uncounted(columns, np.arange(document.length))
    rows = np.diff(np.append(row, document.length))
    return _uncounted(columns, np.arange(document.length) + np.repeat(position - row, rows))


def _uncounted(columns: Columns, counted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions without the padding that stands behind the frames."""
    padding = np.flatnonzero(columns.kind == PADDING)
    if len(padding):
        first, length = int(columns.start[padding[0]]), int(columns.length[padding[0]])
        counted[first + length :] -= length
        counted[first : first + length] = 0
    return counted


def _compact_runs(columns: Columns) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    frames = frames_of(columns)
    counts = frames.end - frames.voco
    at = frames.begin[0] + np.cumsum(counts) - counts
    text = at[-1] + frames.end[-1] - frames.begin[-1]
    return np.concatenate([[0], frames.begin, frames.end[-1:]]), np.concatenate([[0], at, [text]])


def _vst_runs(document: Document, columns: Columns) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    at, prefix = columns.kind == VST, prefix_rows(columns)
    vst = np.array([chunk_of(segment).vst for segment in document.segments if segment.kind == "vst"], np.int64)
    start = columns.start[at]
    end = int(start[-1] + columns.length[at][-1]) if len(start) else prefix
    earlier = prefix + np.cumsum(vst) - vst
    return np.concatenate([[0], start, [end]]), np.concatenate([[0], earlier, [prefix + vst.sum()]])
