"""The dense mask: for tests and pictures, never for a kernel."""

import numpy as np
from numpy.typing import NDArray

from longreel.layout._ranges import row_bounds
from longreel.layout.global_keys import global_index
from longreel.layout.video_layout import VideoLayout

LIMIT = 1 << 26


def visible(layout: VideoLayout) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """bool [B, Sq, Sk] over K and bool [B, Sq, G] over G, True = the row sees that key there."""
    index = global_index(layout)
    elements = layout.batch_size * layout.queries * (layout.keys + index.shape[1])
    if elements > LIMIT:
        raise ValueError(
            f"a dense mask of {elements} elements is above the limit of {LIMIT}: it is for small layouts only"
        )
    bounds = row_bounds(layout)
    key, place = np.arange(layout.keys), np.arange(index.shape[1])
    near = (key >= bounds.lo[..., None]) & (key < bounds.hi[..., None])
    far = (place >= bounds.glo[..., None]) & (place < bounds.ghi[..., None])
    return near, far


def dense_mask(layout: VideoLayout) -> NDArray[np.bool_]:
    """bool [B, Sq, Sk], True = visible."""
    near, far = visible(layout)
    for b, keys in enumerate(global_index(layout)):
        near[b][:, keys[keys >= 0]] |= far[b][:, keys >= 0]
    return near
