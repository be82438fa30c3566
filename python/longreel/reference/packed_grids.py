"""Pictures packed one after another, each with a grid of its own: what is pooled of each, checked, as plain numbers."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy
from torch import Tensor

from longreel.reference.pool_geometry import pair, whole

MODES = ("adaptive", "bilinear")
_MOST = 2**31


class PackedGrid(NamedTuple):
    """frames x height x width tokens in row-major order, pooled to out_frames x out_height x out_width cells."""

    frames: int
    height: int
    width: int
    out_frames: int
    out_height: int
    out_width: int

    @property
    def tokens(self) -> int:
        return self.frames * self.height * self.width

    @property
    def cells(self) -> int:
        return self.out_frames * self.out_height * self.out_width


def packed_grids(grids: Sequence[int]) -> Iterator[PackedGrid]:
    """The pictures of the flat list that ops take."""
    for at in range(0, len(grids), 6):
        yield PackedGrid(*grids[at : at + 6])


def lower_grids(tokens: int, output_size: Any, grid_thw: Any, mode: str) -> list[int]:
    """The flat list for `tokens` packed patches; output_size: one for all pictures, or one a picture.

    Raises:
        ValueError, TypeError: what does not fit, naming what was given and what is allowed.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} takes frames [F, N, C]; packed patches: {str(MODES)[1:-1]}")
    grids = _rows("grid_thw", grid_thw)
    if output_size is None:
        raise ValueError(f"mode={mode!r} needs output_size")
    each = _listed("output_size", output_size)
    if isinstance(each, list) and each and isinstance(each[0], tuple | list):
        if len(each) != len(grids):
            raise ValueError(
                f"output_size has {len(each)} sizes for {len(grids)} pictures; allowed: one, or one a picture"
            )
        sizes = each
    else:
        sizes = [each] * len(grids)
    made = [PackedGrid(*grid, *_cells(size, grid[0])) for grid, size in zip(grids, sizes, strict=True)]
    total = sum(one.tokens for one in made)
    if total != tokens:
        raise ValueError(f"grid_thw has {total} tokens, but there are {tokens} packed patches")
    return [number for one in made for number in one]


def time_axis(output_size: Any, frames: int, mode: str) -> tuple[int, Any]:
    """(frames after pooling, 0 where each is pooled by itself; the size in space) of frames [F, N, C]."""
    if not isinstance(output_size, tuple | list) or len(output_size) != 3:
        return 0, output_size
    if mode not in MODES:
        raise ValueError(
            f"mode={mode!r} has no time axis, output_size={tuple(output_size)}; allowed: {str(MODES)[1:-1]}"
        )
    out_frames = whole("output_size", output_size[0], " or a pair or three of them")
    if not 1 <= out_frames < _MOST:
        raise ValueError(f"output_size={tuple(output_size)} must be at least 1, and below 2^31")
    if frames == 0:
        raise ValueError(f"no frames to pool to output_size={tuple(output_size)}")
    return out_frames, tuple(output_size[1:])


def _listed(name: str, value: Any) -> Any:
    """Lists for tensors and arrays on the CPU, whose numbers an output's size is made of."""
    if isinstance(value, Tensor):
        if value.device.type != "cpu":
            raise ValueError(
                f"{name} is on {value.device}; allowed: the CPU, or a list, for it says how large the output is"
            )
        if value.is_floating_point() or value.is_complex():
            raise TypeError(f"{name} is {value.dtype}; allowed: whole numbers")
        return value.tolist()
    if isinstance(value, numpy.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _rows(name: str, value: Any) -> list[tuple[int, int, int]]:
    rows = _listed(name, value)
    if not isinstance(rows, list) or any(not isinstance(row, tuple | list) or len(row) != 3 for row in rows):
        raise TypeError(f"{name} is a {type(value).__name__}; allowed: (frames, height, width) of every picture")
    made = [(whole(name, t), whole(name, h), whole(name, w)) for t, h, w in rows]
    for row in made:
        if min(row) < 1 or row[0] * row[1] * row[2] >= _MOST:
            raise ValueError(f"{name} has {row}; allowed: at least 1 each, and fewer than 2^31 tokens")
    return made


def _cells(size: Any, frames: int) -> tuple[int, int, int]:
    """(frames, rows, columns) of a picture's cells."""
    if isinstance(size, tuple | list) and len(size) == 3:
        cells = (whole("output_size", size[0]), *pair("output_size", list(size[1:])))
    elif isinstance(size, tuple | list):
        cells = (frames, *pair("output_size", size))
    else:
        side = whole("output_size", size, ", a pair or three of them, or a list of these, one a picture")
        cells = (frames, side, side)
    if min(cells) < 1 or cells[0] * cells[1] * cells[2] >= _MOST:
        raise ValueError(f"output_size={size} must be at least 1 in every place, with fewer than 2^31 cells")
    return cells
