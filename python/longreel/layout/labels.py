"""Rows that carry no label, and kinds of rows."""

import numpy as np
from numpy.typing import NDArray

from longreel.layout.segments import TEXT, VISION, VST, chunk_of
from longreel.layout.video_layout import VideoLayout


def kinds(layout: VideoLayout) -> NDArray[np.uint8]:
    """[B, S] kind of every row: 0 padding, 1 text, 2 vision, 3 VoCo, 4 VST, 5 prefix."""
    out = np.zeros((layout.batch_size, layout.length), np.uint8)
    for b, documents in enumerate(layout.samples):
        start = 0
        for document in documents:
            columns = document.columns()
            row = np.repeat(columns.kind, columns.length)
            at = 0
            for segment in document.segments:
                if segment.kind == "vst":
                    chunk = chunk_of(segment)
                    row[at : at + segment.length] = VISION
                    row[at + chunk.first : at + segment.length : segment.ratio + 1] = VST
                at += segment.length
            out[b, start : start + document.length] = row
            start += document.length
    return out


def ignored_labels(layout: VideoLayout) -> NDArray[np.bool_]:
    """[B, S] True where a row's token is no target of the loss: all but text rows. The prefix and a frame's separator are
    not: they are given. (The last row before the text still predicts its first token.)"""
    ignored = kinds(layout) != TEXT
    for b, documents in enumerate(layout.samples):
        start = 0
        for document in documents:
            last = _last_video_row(document.columns().kind)
            if last >= 0:
                columns = document.columns()
                ignored[b, start : start + int(columns.start[last] + columns.length[last])] = True
            start += document.length
    return ignored


def _last_video_row(kind: NDArray[np.int64]) -> int:
    """The last segment of vision, VoCo or VST; -1 where there is none."""
    places = np.flatnonzero((kind != TEXT) & (kind > 0))
    return int(places[-1]) if len(places) else -1
