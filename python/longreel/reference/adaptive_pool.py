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
    cells = []
    for i in range(out_height):
        row = window[:, i * height // out_height : -(-(i + 1) * height // out_height)].mean(1)
        for j in range(out_width):
            cells.append(row[:, j * width // out_width : -(-(j + 1) * width // out_width)].mean(1))
    return torch.stack(cells, 1)
