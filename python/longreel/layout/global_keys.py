"""G: the keys that rows may attend to from anywhere in their document (prefix, VoCo, VST, sinks)."""

import numpy as np
from numpy.typing import NDArray

from longreel.layout._ranges import Ints, lower
from longreel.layout.video_layout import VideoLayout


def global_ranges(layout: VideoLayout) -> list[Ints]:
    """Per sample the global keys as ranges int64 [n, 3] of (first key, count, stride): O(segments)."""
    samples = []
    for documents in layout.samples:
        parts, start = [np.zeros((0, 3), np.int64)], 0
        for document in documents:
            parts.append(lower(document).global_keys + np.array([start, 0, 0]))
            start += document.length
        ranges = np.concatenate(parts)
        # Keys that a growing sequence does not have yet.
        have = np.clip(-(-(layout.keys - ranges[:, 0]) // ranges[:, 2]), 0, ranges[:, 1])
        ranges[:, 1] = have
        samples.append(ranges[have > 0])
    return samples


def global_index(layout: VideoLayout) -> NDArray[np.int32]:
    """[B, G]: the key that stands at each place of G, ordered by document, then position; -1 pads a shorter sample."""
    rows = [expanded(ranges) for ranges in global_ranges(layout)]
    out = np.full((len(rows), max(map(len, rows))), -1, np.int32)
    for b, keys in enumerate(rows):
        out[b, : len(keys)] = keys
    return out


def expanded(ranges: Ints) -> Ints:
    """Ranges [n, 3] of (first, count, stride) -> every number of them."""
    first, count, stride = ranges.T
    i = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(first, count) + i * np.repeat(stride, count)
