"""The token window of the pooling rule: its geometry on the host, its ranges in a kernel."""

import math
from typing import NamedTuple

import triton
import triton.language as tl
from longreel.triton_kernels.common.launch import pow2


def _reduced(size: int, out: int) -> tuple[int, int]:
    shared = math.gcd(size, out)
    return size // shared, out // shared


def _longest(size: int, out: int) -> int:
    """Positions in the longest range of `span`, for `size` and `out` without a common factor."""
    return (size + 2 * out - 2) // out


class PoolWindow(NamedTuple):
    """A height x width window of tokens and its out_height x out_width cells, as kernels take it. `y_size` to `y_out` and
    `x_size` to `x_out` are the same ratios in lowest terms, which moves no range and keeps index * size in 32 bits;
    `longest_x`: columns of a cell, `longest_y_cells` and `longest_x_cells`: cells that share a row or a column, at most."""

    pitch: int
    height: int
    width: int
    out_height: int
    out_width: int
    y_size: int
    y_out: int
    x_size: int
    x_out: int
    longest_x: int
    longest_y_cells: int
    longest_x_cells: int

    def tiles_once(self, tokens: int) -> bool:
        """Whether every one of the frame's tokens lies in exactly one cell."""
        return self.height * self.width == tokens and self.y_out == 1 and self.x_out == 1


def pool_window(pitch: int, height: int, width: int, out_height: int, out_width: int) -> PoolWindow:
    """The window of a non-empty pooling rule. A single column of tokens becomes a row: neighbours share a tile."""
    if width == 1 and out_width == 1 and pitch == 1:
        height, width, out_height, out_width = 1, height, 1, out_height
    y, x = _reduced(height, out_height), _reduced(width, out_width)
    for count, (size, out) in ((out_height, y), (out_width, x), (height, y[::-1]), (width, x[::-1])):
        if (count + 1) * size + out >= 2**31:
            raise ValueError(
                f"{height} x {width} tokens to {out_height} x {out_width} cells: more than 32-bit ranges hold"
            )
    return PoolWindow(
        pitch, height, width, out_height, out_width, *y, *x, _longest(*x), _longest(*y[::-1]), _longest(*x[::-1])
    )


def cell_tile(out_width: int, longest_x: int, rows: int) -> tuple[int, int]:
    """(cells, columns of each cell) of a tile of at most `rows` rows."""
    cells = pow2(out_width, 1, rows)
    return cells, pow2(longest_x, 1, rows // cells)


@triton.jit
def span(index, size, out):
    """The half-open range of `size` positions that position `index` of `out` covers."""
    return index * size // out, ((index + 1) * size + out - 1) // out


@triton.jit
def columns(first, window, CELLS: tl.constexpr, SPAN: tl.constexpr):
    """First column, and end of the cell's columns, for every row of a tile: SPAN columns of each of CELLS cells."""
    # [CELLS * SPAN]
    r = tl.arange(0, CELLS * SPAN)
    j = first + r // SPAN
    x0, x1 = span(j, window.x_size, window.x_out)
    return x0 + r % SPAN, tl.where(j < window.out_width, x1, 0)
