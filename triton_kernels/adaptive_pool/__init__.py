"""adaptive_pool: averages of frames in `windows`; interpolation, time and packed pictures in `grids`."""

from collections.abc import Sequence

from longreel.triton_kernels.adaptive_pool.grids import pool_grids, pool_grids_backward
from longreel.triton_kernels.adaptive_pool.windows import pool_windows, pool_windows_backward
from longreel.triton_kernels.common.launch import DTYPES
from torch import Tensor

__all__ = ["DTYPES", "adaptive_pool", "adaptive_pool_backward"]


def adaptive_pool(
    patches: Tensor, prefix: int, pitch: int, height: int, width: int, out_height: int, out_width: int,
    out_frames: int = 0, bilinear: int = 0, grids: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    """patches [F, N, C] or packed [total, C], any strides -> [F or out_frames, out_height * out_width, C] or packed
    [cells, C], the patches' dtype."""
    window = (prefix, pitch, height, width, out_height, out_width)
    if patches.dim() == 3 and not out_frames and not bilinear:
        return pool_windows(patches, *window)
    return pool_grids(patches, window, out_frames, bool(bilinear), tuple(grids))


def adaptive_pool_backward(
    grad: Tensor, tokens: int, prefix: int, pitch: int, height: int, width: int, out_height: int, out_width: int,
    out_frames: int = 0, bilinear: int = 0, grids: Sequence[int] = (), frames: int = 0,
) -> Tensor:  # fmt: skip
    """grad of the output, any strides -> the gradient of the patches, contiguous."""
    window = (prefix, pitch, height, width, out_height, out_width)
    if grad.dim() == 3 and not out_frames and not bilinear:
        return pool_windows_backward(grad, tokens, *window)
    return pool_grids_backward(grad, tokens, window, out_frames, bool(bilinear), tuple(grids), frames)
