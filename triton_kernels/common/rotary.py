"""Rotary positions: the halves of a head turned against each other, in float32, rounded once where they are stored."""

import triton
import triton.language as tl
from longreel.triton_kernels.common.launch import pow2
from longreel.triton_kernels.common.tiles import read_columns

ELEMENTS = 1024  # of half a head's tile: 16 bytes a thread of each half in bf16, four reads in flight


def turn_constants(head: int) -> dict[str, int]:
    """What a kernel that turns heads of `head` elements is compiled for: half of it, its width in a tile, rows of a tile; and its
    warps."""
    width = pow2(head // 2, 1, 128)
    return {"HALF": head // 2, "BH": width, "BM": min(64, ELEMENTS // width), "num_warps": 4}


@triton.jit
def read_angles(table, rows, m_rows, HALF: tl.constexpr, BH: tl.constexpr):
    """[rows, BH] of a contiguous table [positions, HALF]."""
    return read_columns(table, 1, rows, HALF, m_rows, 0, BH, HALF, False)


@triton.jit
def read_halves(x, b, h, rows, m_rows, HALF: tl.constexpr, BH: tl.constexpr):
    """Both halves [rows, BH] of `rows` of head h of sample b of `Heads` x."""
    p = x.p + b * x.b + h * x.h
    first = read_columns(p, x.d, rows, x.r, m_rows, 0, BH, HALF, False)
    return first, read_columns(p + HALF * tl.cast(x.d, tl.int64), x.d, rows, x.r, m_rows, 0, BH, HALF, False)


@triton.jit
def write_halves(x, b, h, halves, rows, m_rows, HALF: tl.constexpr, BH: tl.constexpr):
    """Both halves to `rows` of head h of sample b of `Heads` x."""
    d = tl.arange(0, BH)
    at = x.p + b * x.b + h * x.h + rows.to(tl.int64)[:, None] * x.r + (d.to(tl.int64) * x.d)[None, :]
    m = m_rows[:, None] & (d < HALF)[None, :]
    tl.store(at, halves[0], mask=m)
    tl.store(at + HALF * tl.cast(x.d, tl.int64), halves[1], mask=m)


@triton.jit
def turned(halves, cos, sin):
    first = halves[0].to(tl.float32)
    second = halves[1].to(tl.float32)
    return first * cos - second * sin, second * cos + first * sin
