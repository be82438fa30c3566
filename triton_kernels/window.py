"""The token window of the pooling rule: its geometry on the host, its ranges in a kernel."""

import math
from typing import NamedTuple

import triton
import triton.language as tl


def _reduced(size: int, out: int) -> tuple[int, int]:
    shared = math.gcd(size, out)
    return size // shared, out // shared


def _longest(size: int, out: int) -> int:
    """Positions in the longest range of `span`, for `size` and `out` without a common factor."""
    return (size + 2 * out - 2) // out


class Window(NamedTuple):
    """An h x w window of tokens and its out_h x out_w cells; `y`, `x` hold (size, out) in lowest terms, which moves no
    range and keeps index * size in 32 bits."""

    pitch: int
    height: int
    width: int
    out_height: int
    out_width: int
    y: tuple[int, int]
    x: tuple[int, int]

    @property
    def longest_x(self) -> int:
        return _longest(*self.x)

    @property
    def longest_x_cells(self) -> int:
        """Cells that share one column, at most."""
        return _longest(self.x[1], self.x[0])

    @property
    def longest_y_cells(self) -> int:
        """Cells that share one row, at most."""
        return _longest(self.y[1], self.y[0])

    def tiles_once(self, tokens: int) -> bool:
        """Whether every one of the frame's tokens lies in exactly one cell."""
        return self.height * self.width == tokens and self.y[1] == 1 and self.x[1] == 1


def window(pitch: int, height: int, width: int, out_height: int, out_width: int) -> Window:
    """The window of a non-empty pooling rule. A single column of tokens becomes a row: neighbours share a tile."""
    if width == 1 and out_width == 1 and pitch == 1:
        height, width, out_height, out_width = 1, height, 1, out_height
    y, x = _reduced(height, out_height), _reduced(width, out_width)
    for count, (size, out) in ((out_height, y), (out_width, x), (height, y[::-1]), (width, x[::-1])):
        if (count + 1) * size + out >= 2**31:
            raise ValueError(
                f"{height} x {width} tokens to {out_height} x {out_width} cells: more than 32-bit ranges hold"
            )
    return Window(pitch, height, width, out_height, out_width, y, x)


@triton.jit
def span(index, size, out):
    """The half-open range of `size` positions that position `index` of `out` covers."""
    return index * size // out, ((index + 1) * size + out - 1) // out


@triton.jit
def columns(first, out_width, x_size, x_out, CELLS: tl.constexpr, SPAN: tl.constexpr):
    """First column, and end of the cell's columns, for every row of a tile: SPAN columns of each of CELLS cells."""
    # [CELLS * SPAN]
    r = tl.arange(0, CELLS * SPAN)
    j = first + r // SPAN
    x0, x1 = span(j, x_size, x_out)
    return x0 + r % SPAN, tl.where(j < out_width, x1, 0)
