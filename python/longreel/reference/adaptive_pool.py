"""adaptive_pool: adaptive average pooling over a cropped window of the token grid."""

import torch
from torch import Tensor

from longreel.reference.pool_geometry import PoolGeometry


def adaptive_pool(patches: Tensor, geometry: PoolGeometry) -> Tensor:
    """patches [F, N, C] -> [F, out_height * out_width, C], in the dtype of the input."""
    prefix, pitch, height, width, out_height, out_width = geometry
    if (out_height, out_width) == (height, width) == (height, pitch):
        return patches[:, prefix:].clone()
    # [F, height, width, C]
    window = patches[:, prefix:].unflatten(1, (-1, pitch))[:, :height, :width]
    bands = [window[:, rows].mean(1) for rows in _spans(height, out_height)]
    return torch.stack([band[:, columns].mean(1) for band in bands for columns in _spans(width, out_width)], 1)


def _spans(size: int, cells: int) -> list[slice]:
    """What each cell averages of `size` entries: from floor(i * size / cells) to ceil((i + 1) * size / cells)."""
    return [slice(i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells)]
