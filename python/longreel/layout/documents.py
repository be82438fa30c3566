"""Layouts of documents alone: from lengths, under a window, cut at the front, and where they begin."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from longreel.layout.segments import Document, Kind, Rule, Segment, joined

if TYPE_CHECKING:
    from longreel.layout.video_layout import VideoLayout


def text_documents(lengths: Sequence[int], window: int | None = None, padding: int = 0) -> tuple[Document, ...]:
    """A sample: `padding` rows, then documents of so many rows, each causal or under a sliding `window`."""
    pad = tuple(Document((segment,), Rule("text")) for segment in joined([Segment("padding", padding)]))
    return (
        *pad,
        *(Document((Segment("text", rows),), Rule("text", window=window)) for rows in map(int, lengths) if rows),
    )


def windowed(layout: "VideoLayout", window: int) -> "VideoLayout | None":
    """`layout`, of whose keys every row attends to those of the last `window` rows only; None: no layout says that."""
    samples = []
    for documents in layout.samples:
        own = [_windowed(document, window) for document in documents]
        if any(document is None for document in own):
            return None
        samples.append(tuple(document for document in own if document is not None))
    same = all(a is b for own, old in zip(samples, layout.samples, strict=True) for a, b in zip(own, old, strict=True))
    return layout if same else replace(layout, samples=tuple(samples))


def _windowed(document: Document, window: int) -> Document | None:
    rule = document.rule
    if document.padding or document.length <= window:
        return document
    causal = rule.attention != "vst" and not any(segment.kind == "voco" for segment in document.segments)
    if rule.sinks or rule.attention == "ranges" or not (causal or rule.attention == "text"):
        return None
    return replace(document, rule=Rule("text", window=min(window, rule.window or window)))


def chunked(layout: "VideoLayout", chunk: int) -> "VideoLayout | None":
    """`layout`, of whose keys every row attends to those of its own chunk of `chunk` rows only, counted from behind the padding;
    None: no layout says that."""
    samples = []
    for documents in layout.samples:
        real = [document for document in documents if not document.padding]
        if len(real) > 1 or any(document.rule != Rule("text") for document in real):
            return None
        parts = (
            text_documents(chunks(document.length, chunk)) if document in real else (document,)
            for document in documents
        )
        samples.append(tuple(part for of_one in parts for part in of_one))
    return replace(layout, samples=tuple(samples))


def chunks(rows: int, chunk: int) -> list[int]:
    """Lengths of the chunks of so many rows."""
    return [chunk] * (rows // chunk) + [rest for rest in (rows % chunk,) if rest]


def without_first(layout: "VideoLayout", rows: int) -> "VideoLayout":
    """The layout without its first `rows` keys, which no row that is computed attends to; documents that are cut are text."""
    samples = []
    for documents in layout.samples:
        rest, left = rows, []
        for document in documents:
            cut = min(rest, document.length)
            rest -= cut
            if cut == document.length:
                continue
            if cut and document.rule.attention == "ranges":
                raise ValueError("a layout of blocks cannot be combined with a cache that drops keys of its own window")
            kind: Kind = "padding" if document.padding else "text"
            left.append(document if not cut else replace(document, segments=(Segment(kind, document.length - cut),)))
        samples.append(tuple(left))
    return replace(layout, samples=tuple(samples), window=None)


def last_text(layout: "VideoLayout") -> list[int] | None:
    """Where the last document of every sample begins, where all of them are causal text and none ends in padding; else None."""
    if layout.window is not None or layout.order != "position":
        return None
    begins = []
    for documents in layout.samples:
        if not documents or documents[-1].padding:
            return None
        if any(d.rule != Rule("text") or any(s.kind not in ("text", "padding") for s in d.segments) for d in documents):
            return None
        begins.append(layout.length - documents[-1].length)
    return begins


def begins_document(layout: "VideoLayout") -> NDArray[np.bool_]:
    """bool [B, S]: the row is the first of its document, or padding."""
    out = np.zeros((layout.batch_size, layout.length), np.bool_)
    for row, documents in zip(out, layout.samples, strict=True):
        start = 0
        for document in documents:
            row[start : start + (document.length if document.padding else 1)] = True
            start += document.length
    return out


def repeated(layout: "VideoLayout", batch: int) -> "VideoLayout":
    """Every sample as often as `batch` asks, in a row, as generate expands its inputs."""
    times, rest = divmod(batch, layout.batch_size)
    if layout.batch_size == 1 or times == 1 or rest:
        return layout
    return replace(layout, samples=tuple(sample for sample in layout.samples for _ in range(times)))
