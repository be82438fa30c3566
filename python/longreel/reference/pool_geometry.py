"""Pooling geometry: every mode is adaptive average pooling over a cropped window of the token grid."""

import math
import operator
from typing import Any, NamedTuple

from torch import Tensor

_PAIRS = (tuple, list)
MODES = ("adaptive", "grid", "mean", "none")


class PoolGeometry(NamedTuple):
    """Token (y, x) of the window is patch row `prefix + y * pitch + x`; cell (i, j) averages the window's rows
    floor(i * height / out_height) .. ceil((i + 1) * height / out_height), and its columns likewise."""

    prefix: int
    pitch: int
    height: int
    width: int
    out_height: int
    out_width: int

    @property
    def cells(self) -> int:
        return self.out_height * self.out_width


def token_grid(tokens: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) of `tokens` patches; the default is their square."""
    if grid is not None:
        height, width = grid
        if height < 1 or width < 1:
            raise ValueError(f"grid={grid} must be at least 1 in both places")
        if height * width != tokens:
            raise ValueError(
                f"grid={grid} has {height * width} tokens, but there are {tokens} patches after num_prefix_tokens"
            )
        return height, width
    side = math.isqrt(tokens)
    if side * side != tokens or tokens == 0:
        raise ValueError(f"{tokens} patches (after num_prefix_tokens) are not a square grid: pass grid=(height, width)")
    return side, side


def whole(name: str, value: Any, more: str = "") -> int:
    """An int of 64 bits, numpy's too; symbolic ones of a compiled graph stay as they are."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{name} is beyond 64 bits")
        return value
    if isinstance(value, bool | str | float | Tensor) or not hasattr(value, "__index__"):
        shown = repr(value) if isinstance(value, float | bool | str) else f"a {type(value).__name__}"
        raise TypeError(f"{name} is {shown}; allowed: an int{more}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is a {type(value).__name__}; allowed: an int{more}") from None


def pair(name: str, value: Any) -> tuple[int, int]:
    """(height, width)."""
    if not isinstance(value, _PAIRS) or len(value) != 2:
        shown = (
            str(value)
            if isinstance(value, tuple | list | int) and len(str(value)) < 40
            else f"a {type(value).__name__}"
        )
        raise TypeError(f"{name} is {shown}; allowed: a pair (rows, columns)")
    rows, columns = (whole(name, size, ", in both places of the pair") for size in value)
    return rows, columns


def pool_geometry(
    tokens: int,
    output_size: int | tuple[int, int] | None,
    mode: str,
    grid: tuple[int, int] | None,
    num_prefix_tokens: int,
    modes: tuple[str, ...] = MODES,
) -> PoolGeometry:
    """Lower (`output_size`, `mode`, `grid`) over N = `tokens` patches to the one rule that kernels know."""
    # a compiled graph specialises on N and on these settings, never on F
    tokens, prefix = operator.index(tokens), operator.index(whole("num_prefix_tokens", num_prefix_tokens))
    grid = None if grid is None else pair("grid", grid)
    if isinstance(output_size, _PAIRS):
        output_size = pair("output_size", output_size)
    elif output_size is not None:
        output_size = whole("output_size", output_size, " or a pair of them")
    if not isinstance(mode, str):
        raise TypeError(f"mode is a {type(mode).__name__}; allowed: {str(modes)[1:-1]}")
    if prefix < 0 or prefix > tokens:
        raise ValueError(f"num_prefix_tokens={prefix} is outside 0..{tokens}, the number of patches")
    rest = tokens - prefix
    if grid is not None:
        token_grid(rest, grid)
    if mode == "none":
        return PoolGeometry(prefix, 1, rest, 1, rest, 1)
    if rest == 0:
        raise ValueError(f"no patches to pool: {tokens} patches, num_prefix_tokens={prefix}")
    if mode == "mean":
        return PoolGeometry(prefix, 1, rest, 1, 1, 1)
    if mode not in modes:
        raise ValueError(f"mode={mode!r} is not one of {str(modes)[1:-1]}")
    height, width = token_grid(rest, grid)
    if output_size is None:
        raise ValueError(f"mode={mode!r} needs output_size")
    if mode in ("adaptive", "bilinear"):
        out_height, out_width = (output_size, output_size) if isinstance(output_size, int) else output_size
        if out_height < 1 or out_width < 1:
            raise ValueError(f"output_size={output_size} must be at least 1")
        if out_height * out_width >= 2**31:
            raise ValueError(f"output_size={output_size} has {out_height * out_width} cells; allowed: at most 2^31 - 1")
        return PoolGeometry(prefix, width, height, width, out_height, out_width)
    if not isinstance(output_size, int) or output_size < 2:
        raise ValueError(f"mode='grid' takes output_size=g, an int of at least 2, not {output_size!r}")
    if height != width:
        raise ValueError(f"mode='grid' needs a square grid of patches, not {height} x {width}")
    kernel = height // output_size
    if kernel == 0:
        raise ValueError(f"mode='grid' with output_size={output_size} is finer than the {height} x {width} patches")
    out = height // kernel
    return PoolGeometry(prefix, width, kernel * out, kernel * out, out, out)
