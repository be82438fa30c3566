"""Tiles of heads: [rows, HEAD] as one tile or two, since a tile's sides are powers of two: 80 = 64 + 16, 96 = 64 + 32.

BD and TAIL are their widths, TAIL 0 where one holds the head (64; 112 in 128). A product over the head has a term for each, a
product that makes a head makes each.
"""

import functools
from typing import Any, NamedTuple

import triton
import triton.language as tl
from longreel.triton_kernels.common.launch import pow2
from torch import Tensor


class Heads(NamedTuple):
    """A tensor [B, rows, H, D] as a kernel takes it: pointer and strides."""

    p: Any
    b: Any
    r: Any
    h: Any
    d: Any


def heads_of(tensor: Tensor | None) -> Heads | None:
    return None if tensor is None else Heads(tensor, *tensor.stride())


@functools.lru_cache
def head_parts(head: int) -> tuple[int, int]:
    """Widths of the two tiles that hold a head: powers of two, the second 0 where a single one is as small (80 = 64 + 16)."""
    whole = pow2(head, 16, 512)
    tail = pow2(head - whole // 2, 16, 512)
    return (whole // 2, tail) if whole // 2 >= 16 and tail < whole // 2 else (whole, 0)


def head_constants(head: int) -> dict[str, int]:
    """What every kernel over heads is compiled for."""
    main, tail = head_parts(head)
    return {"HEAD": head, "BD": main, "TAIL": tail}


@triton.jit
def read_head(
    x, b, h, rows, m_rows, HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, UPCAST: tl.constexpr
):  # fmt: skip
    """The head tile of `rows` of head h of sample b of `Heads` x."""
    return read(x.p + b * x.b + h * x.h, x.d, rows, x.r, m_rows, HEAD, BD, TAIL, UPCAST)


@triton.jit
def read(
    p, step, rows, stride, m_rows,
    HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """The head tile of `rows` that stand at `p`; zeros where `m_rows` is false and past HEAD."""
    main = read_columns(p, step, rows, stride, m_rows, 0, BD, HEAD, UPCAST)
    if TAIL:
        return main, read_columns(p, step, rows, stride, m_rows, BD, TAIL, HEAD, UPCAST)
    else:
        return (main,)


@triton.jit
def read_columns(
    p, step, rows, stride, m_rows, FIRST: tl.constexpr, WIDTH: tl.constexpr, HEAD: tl.constexpr, UPCAST: tl.constexpr
):
    """[rows, WIDTH], elements FIRST and following."""
    d = FIRST + tl.arange(0, WIDTH).to(tl.int64)
    at = (p + d * step)[None, :] + rows.to(tl.int64)[:, None] * stride
    if m_rows is not None:
        m = m_rows[:, None]
        if FIRST + WIDTH > HEAD:
            m = m & (d < HEAD)[None, :]
        tile = tl.load(at, mask=m, other=0.0)
    elif FIRST + WIDTH > HEAD:
        tile = tl.load(at, mask=(d < HEAD)[None, :], other=0.0)
    else:
        tile = tl.load(at)
    if UPCAST:
        tile = tile.to(tl.float32)
    return tile


@triton.jit
def write(p, tile, rows, stride, m_rows, HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr):
    """`tile` to rows of `stride` contiguous elements at `p`."""
    write_columns(p, tile[0], rows, stride, m_rows, 0, BD, HEAD)
    if TAIL:
        write_columns(p, tile[1], rows, stride, m_rows, BD, TAIL, HEAD)


@triton.jit
def write_columns(
    p, tile, rows, stride, m_rows, FIRST: tl.constexpr, WIDTH: tl.constexpr, HEAD: tl.constexpr
):  # fmt: skip
    d = FIRST + tl.arange(0, WIDTH)
    at = p + rows.to(tl.int64)[:, None] * stride + d[None, :]
    tl.store(at, tile, mask=m_rows[:, None] & (d < HEAD)[None, :])


@triton.jit
def zeros(ROWS: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr):
    """The sums of a head tile."""
    main = tl.zeros([ROWS, BD], tl.float32)
    if TAIL:
        return main, tl.zeros([ROWS, TAIL], tl.float32)
    else:
        return (main,)


@triton.jit
def over_head(a, b):
    """[rows of a, rows of b]: a b^T, the sum over the head."""
    s = tl.dot(a[0], tl.trans(b[0]), input_precision="ieee")
    if len(a) == 2:
        s = tl.dot(a[1], tl.trans(b[1]), s, input_precision="ieee")
    return s


@triton.jit
def onto_head(p, v, sums):
    """`sums` + p v, `p` rounded to what the products take."""
    p = p.to(v[0].dtype)
    main = tl.dot(p, v[0], sums[0], input_precision="ieee")
    if len(v) == 2:
        return main, tl.dot(p, v[1], sums[1], input_precision="ieee")
    else:
        return (main,)


@triton.jit
def inner(a, b):
    """[rows]: a row of a times that of b, in fp32."""
    total = tl.sum(a[0].to(tl.float32) * b[0].to(tl.float32), axis=1)
    if len(a) == 2:
        total += tl.sum(a[1].to(tl.float32) * b[1].to(tl.float32), axis=1)
    return total


@triton.jit
def scaled(tile, factor):
    """`tile` times a factor [rows]."""
    main = tile[0] * factor[:, None]
    if len(tile) == 2:
        return main, tile[1] * factor[:, None]
    else:
        return (main,)


@triton.jit
def plus(tile, other):
    main = tile[0] + other[0]
    if len(tile) == 2:
        return main, tile[1] + other[1]
    else:
        return (main,)


@triton.jit
def only(tile, m_rows):
    """0 in rows where `m_rows` is false."""
    main = tl.where(m_rows[:, None], tile[0], 0.0)
    if len(tile) == 2:
        return main, tl.where(m_rows[:, None], tile[1], 0.0)
    else:
        return (main,)
