"""adaptive_pool: averages of the cells of token grids, or linear interpolation between tokens; over time, averages."""

from collections.abc import Sequence

import torch
from torch import Tensor

from longreel.reference.packed_grids import packed_grids
from longreel.reference.pool_geometry import PoolGeometry


def adaptive_pool(
    patches: Tensor, geometry: PoolGeometry, out_frames: int = 0, bilinear: bool = False, grids: Sequence[int] = ()
) -> Tensor:
    """patches [F, N, C] -> [F, out_height * out_width, C], with out_frames [out_frames, ...], in the dtype of the input; packed
    patches [total, C] of pictures with `grids` -> [cells of all pictures, C]."""
    if patches.dim() == 2:
        return _packed(patches, bilinear, grids)
    prefix, pitch, height, width, out_height, out_width = geometry
    if (out_height, out_width) == (height, width) == (height, pitch) and not out_frames:
        return patches[:, prefix:].clone()
    # [F, height, width, C]
    window = patches[:, prefix:].unflatten(1, (-1, pitch))[:, :height, :width]
    return _pooled(window, out_frames, out_height, out_width, bilinear).flatten(1, 2)


def _packed(patches: Tensor, bilinear: bool, grids: Sequence[int]) -> Tensor:
    pieces, at = [patches[:0]], 0
    for one in packed_grids(grids):
        # [frames, height, width, C]
        picture = patches[at : at + one.tokens].unflatten(0, (one.frames, one.height, one.width))
        out_frames = 0 if one.out_frames == one.frames else one.out_frames
        pieces.append(_pooled(picture, out_frames, one.out_height, one.out_width, bilinear).flatten(0, 2))
        at += one.tokens
    return torch.cat(pieces)


def _pooled(window: Tensor, out_frames: int, out_height: int, out_width: int, bilinear: bool) -> Tensor:
    """window [F, height, width, C] -> [F or out_frames, out_height, out_width, C]"""
    if out_frames:
        window = _averaged(window, 0, out_frames)
    along = _interpolated if bilinear else _averaged
    return along(along(window, 1, out_height), 2, out_width)


def _averaged(x: Tensor, dim: int, cells: int) -> Tensor:
    """Each cell averages from floor(i * size / cells) to ceil((i + 1) * size / cells)."""
    size = x.shape[dim]
    spans = [(i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells)]
    return torch.stack([x.narrow(dim, a, b - a).mean(dim) for a, b in spans], dim)


def _interpolated(x: Tensor, dim: int, cells: int) -> Tensor:
    """Cell i lies at (i + 1/2) * size / cells - 1/2 between two entries, at the first where that is below 0."""
    size = x.shape[dim]
    # in 1 / (2 * cells)
    place = ((2 * torch.arange(cells, device=x.device) + 1) * size - cells).clamp(min=0)
    low = place // (2 * cells)
    share = ((place % (2 * cells)).to(x.dtype) / (2 * cells)).view(-1, *[1] * (x.dim() - dim - 1))
    high = (low + 1).clamp(max=size - 1)
    return x.index_select(dim, low) * (1 - share) + x.index_select(dim, high) * share
