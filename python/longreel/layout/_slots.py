"""What a cache keeps: the keys that the next text row will attend to, each at its slot for ever."""

import numpy as np
from numpy.typing import NDArray

from longreel.layout._ranges import Ints, Lowered, lower
from longreel.layout.global_keys import expanded
from longreel.layout.video_layout import VideoLayout


def cached_ranges(layout: VideoLayout) -> list[Ints]:
    """Per sample the rows cached, as ranges int64 [n, 3] of (first row, count, stride), in slot order.

    VoCo: the VoCo rows (and the prefix where text attends to it), then text. Video-XL: prefix, VST, text. A sliding window: the
    sinks and the rows still in reach. Each document keeps its own; padding keeps nothing.
    """
    samples = []
    for documents in layout.samples:
        parts, start = [np.zeros((0, 3), np.int64)], 0
        for document in documents:
            if not document.padding:
                parts.append(_keys_of_next_row(lower(document.extended(1))) + np.array([start, 0, 0]))
            start += document.length
        samples.append(np.concatenate(parts))
    return samples


def cached(layout: VideoLayout) -> list[int]:
    """Slots that each sample fills."""
    return [int(ranges[:, 1].sum()) for ranges in cached_ranges(layout)]


def slots(layout: VideoLayout) -> NDArray[np.int32]:
    """[B, S]: the cache slot of every row, -1 for a row that is dropped."""
    out = np.full((layout.batch_size, layout.length), -1, np.int32)
    for b, ranges in enumerate(cached_ranges(layout)):
        rows = expanded(ranges)
        out[b, rows] = np.arange(len(rows))
    return out


def _keys_of_next_row(lowered: Lowered) -> Ints:
    own = lowered.ranges
    last = own.rows[-1] - 1
    lo = int(own.lo[-1] + last * own.lo_step[-1])
    hi = int(own.hi[-1] + (last * own.up[-1] + own.carry[-1]) // own.over[-1]) - 1
    ranges = lowered.global_keys
    # The part glo .. ghi of G, range by range.
    before = np.cumsum(ranges[:, 1]) - ranges[:, 1]
    skip = np.clip(own.glo[-1] - before, 0, ranges[:, 1])
    count = np.clip(own.ghi[-1] - before, 0, ranges[:, 1]) - skip
    global_ = np.stack([ranges[:, 0] + skip * ranges[:, 2], count, ranges[:, 2]], axis=1)
    local = np.array([(lo, hi - lo, 1)], np.int64)
    every = np.concatenate([global_, local])
    return every[every[:, 1] > 0]
