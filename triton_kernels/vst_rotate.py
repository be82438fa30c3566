"""vst_rotate: rows turned by the angles of their positions; keys and values change to position order on the way.

The backward is the same picture from behind: opposite angles, and keys and values come from position order.
"""

import functools

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.common.bound import Bound
from longreel.triton_kernels.common.launch import DTYPES
from longreel.triton_kernels.common.rotary import read_angles, read_halves, turn_constants, turned, write_halves
from longreel.triton_kernels.common.tiles import heads_of
from torch import Tensor

__all__ = ["DTYPES", "vst_rotate", "vst_rotate_backward"]

HEADS = 4  # heads that a program turns with one read of the angles


@triton.jit(do_not_specialize=("rows", "tables", "samples", "blocks"))
def vst_rotate_kernel(
    q, k, v, new_q, new_k, new_v, cos, sin, bounds, tables, samples, rows, heads, kv_heads, blocks,
    INVERSE: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, BH: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """A program: BM rows of HEADS heads of q, of k or of v; what is None is left out. tables, samples: of the angles and of the
    bounds, 1 or as many as the batch."""
    q_slots = tl.cdiv(heads, HEADS)
    kv_slots = tl.cdiv(kv_heads, HEADS)
    slot = tl.program_id(0) % (q_slots + 2 * kv_slots)
    block = tl.program_id(0) // (q_slots + 2 * kv_slots)
    b = (block // blocks).to(tl.int64)
    # [BM]
    r = block % blocks * BM + tl.arange(0, BM)
    m_r = r < rows
    # the number of the row's token
    place = tl.load(bounds + (b % samples * rows + r) * 4 + 1, mask=m_r, other=1) - 1
    source = r
    to = place
    if INVERSE:
        source = place
        to = r
    if slot < q_slots + kv_slots:
        table = b % tables * rows * HALF
        b_cos = read_angles(cos + table, place, m_r, HALF, BH)
        b_sin = read_angles(sin + table, place, m_r, HALF, BH)
        if INVERSE:
            b_sin = -b_sin
        if slot < q_slots:
            turn(q, new_q, slot, heads, b, r, r, m_r, b_cos, b_sin, HEADS, HALF, BH)
        else:
            turn(k, new_k, slot - q_slots, kv_heads, b, source, to, m_r, b_cos, b_sin, HEADS, HALF, BH)
    else:
        turn(v, new_v, slot - q_slots - kv_slots, kv_heads, b, source, to, m_r, None, None, HEADS, HALF, BH)


@triton.jit
def turn(
    x, out, slot, heads, b, source, to, m_r, cos, sin, HEADS: tl.constexpr, HALF: tl.constexpr, BH: tl.constexpr
):  # fmt: skip
    """HEADS heads of x, from rows `source` to rows `to` of `out`; cos None: as they are."""
    if x is not None:
        for h in range(slot * HEADS, tl.minimum(slot * HEADS + HEADS, heads)):
            halves = read_halves(x, b, tl.cast(h, tl.int64), source, m_r, HALF, BH)
            if cos is not None:
                halves = turned(halves, cos, sin)
            write_halves(out, b, tl.cast(h, tl.int64), halves, to, m_r, HALF, BH)


@functools.lru_cache
def bound_rotate(head: int, inverse: bool) -> Bound:
    return Bound(vst_rotate_kernel, INVERSE=inverse, HEADS=HEADS, **turn_constants(head))


def vst_rotate(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, bounds: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """q [B, R, H, D], k and v [B, R, Hkv, D], any strides; cos and sin fp32 [1 or B, R, D/2], bounds int32 [1 or B, R, 4] ->
    the rotated, contiguous."""
    made = [t.new_empty(t.shape) for t in (q, k, v)]
    launch((q, k, v), made, cos, sin, bounds, q.shape[2], k.shape[2], inverse=False)
    return made[0], made[1], made[2]


def vst_rotate_backward(
    grad_q: Tensor | None, grad_k: Tensor | None, grad_v: Tensor | None, cos: Tensor, sin: Tensor, bounds: Tensor,
    heads: int, kv_heads: int, need_q: int, need_k: int, need_v: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of q, k and v, contiguous; empty where not needed, zeros where none came in."""
    given = (grad_q, grad_k, grad_v)
    some = next(t for t in given if t is not None)
    batch, rows, _, head = some.shape
    made = []
    for grad, count, need in zip(given, (heads, kv_heads, kv_heads), (need_q, need_k, need_v), strict=True):
        shape = (batch, rows, count, head) if need else (0,)
        made.append(some.new_zeros(shape) if grad is None else some.new_empty(shape))
    wanted = [grad if need else None for grad, need in zip(given, (need_q, need_k, need_v), strict=True)]
    launch(wanted, made, cos, sin, bounds, heads, kv_heads, inverse=True)
    return made[0], made[1], made[2]


def launch(
    given: tuple[Tensor, ...] | list[Tensor | None], made: list[Tensor], cos: Tensor, sin: Tensor, bounds: Tensor,
    heads: int, kv_heads: int, inverse: bool,
) -> None:  # fmt: skip
    some = next((t for t in given if t is not None), None)
    if some is None or some.numel() == 0:
        return
    batch, rows, _, head = some.shape
    rotate = bound_rotate(head, inverse)
    blocks = -(-rows // rotate.constants["BM"])
    slots = -(-heads // HEADS) + 2 * -(-kv_heads // HEADS)
    new = (None if t is None else heads_of(to) for t, to in zip(given, made, strict=True))
    with torch.cuda.device_of(some):
        rotate(
            batch * blocks * slots,
            *map(heads_of, given), *new, cos.contiguous(), sin.contiguous(), bounds.contiguous(),
            cos.shape[0], bounds.shape[0], rows, heads, kv_heads, blocks,
        )  # fmt: skip
