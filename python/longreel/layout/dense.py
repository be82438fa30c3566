"""The dense mask: for tests and pictures, never for a kernel."""

import numpy as np
from numpy.typing import NDArray

from longreel.layout._ranges import row_bounds
from longreel.layout.global_keys import global_index
from longreel.layout.video_layout import VideoLayout

LIMIT = 1 << 26


def visible(layout: VideoLayout) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """bool [B, Sq, Sk] over K and bool [B, Sq, G] over G, True = the row attends to that key there."""
    index = global_index(layout)
    elements = layout.batch_size * layout.queries * (layout.keys + index.shape[1])
    if elements > LIMIT:
        raise ValueError(
            f"a dense mask of {elements} elements is above the limit of {LIMIT}: it is for small layouts only"
        )
    bounds = row_bounds(layout)
    key, place = np.arange(layout.keys), np.arange(index.shape[1])
    local = (key >= bounds.lo[..., None]) & (key < bounds.hi[..., None])
    global_ = (place >= bounds.glo[..., None]) & (place < bounds.ghi[..., None])
    return local, global_


def dense_mask(layout: VideoLayout) -> NDArray[np.bool_]:
    """bool [B, Sq, Sk], True = visible."""
    local, global_ = visible(layout)
    for b, keys in enumerate(global_index(layout)):
        local[b][:, keys[keys >= 0]] |= global_[b][:, keys >= 0]
    return local
