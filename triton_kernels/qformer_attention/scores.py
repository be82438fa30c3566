"""Scores of keys against absorbed queries, and the softmax weights of a block of keys.

A weight is exp(s) 2^-e with an integer exponent e for each row and block of keys. A later change of scale is a power of two,
which no dtype rounds, so weights may be stored in the dtype of the products and still be brought to the scale of a whole row.
"""

import triton
import triton.language as tl
from longreel.triton_kernels.common.online_softmax import LOG2_E
from longreel.triton_kernels.qformer_attention.launch import VARYING, keys_at, nearest, read_keys

# ln 2 = LN_2_HIGH + LN_2_LOW; the first has 15 bits, so that its multiples up to 2^9 are exact in fp32
LN_2_HIGH = tl.constexpr(0.693145751953125)
LN_2_LOW = tl.constexpr(1.42860682030941723e-6)
# The exponent of a block without a key: far below any other, and finite.
NO_KEY = tl.constexpr(-1.0e9)


@triton.jit
def tile_of(rows, blocks, BM: tl.constexpr):
    """(sample, block of keys, tile of rows) of the program: the tiles of rows follow one another, so that a block of keys comes
    from memory once and from L2 for the others."""
    tiles = tl.cdiv(rows, BM)
    tile = tl.program_id(0) % tiles
    block = tl.program_id(0) // tiles
    return (block // blocks).to(tl.int64), block % blocks, tile


@triton.jit
def add_dots(operand, at, c, m, b_x, state, UPCAST: tl.constexpr):
    """`state` and channels c of the operand's rows at `at` [BM] times keys [BN, BK]: sums [BM, BN], and what they dropped."""
    s, lost = state
    b_r = tl.load(operand.hi + at[:, None] + c[None, :], mask=m, other=0.0)
    if UPCAST:
        b_r = b_r.to(tl.float32)
    if b_x.dtype == tl.float32 and not UPCAST:
        # what a long sum drops is carried along: softmax turns absolute errors of scores into relative ones
        term = tl.dot(b_r, tl.trans(b_x), input_precision="ieee") - lost
        total = s + term
        lost = (total - s) - term
        s = total
    else:
        s = tl.dot(b_r, tl.trans(b_x), s, input_precision="ieee")
    if operand.lo is not None:
        b_r = tl.load(operand.lo + at[:, None] + c[None, :], mask=m, other=0.0)
        if UPCAST:
            b_r = b_r.to(tl.float32)
        s = tl.dot(b_r, tl.trans(b_x), s, input_precision="ieee")
    return s, lost


@triton.jit
def row_dots(
    operand, more, x, b, set, r, n, keys, count, channels,
    BOTH: tl.constexpr, UPCAST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """[BM, BN] rows r of `operand` times keys n, with BOTH those of `more`, and which keys are read; one read of x."""
    # Triton 3.6 cannot ask whether a tuple that holds a None is None
    # [BM], [BN], [BK]
    m_r = r < count
    at = (set * count + r) * channels
    p_n, m_n = keys_at(x, b, n, keys)
    o_k = tl.arange(0, BK)
    state = (tl.zeros([BM, BN], tl.float32), tl.zeros([BM, BN], tl.float32))
    other = state
    for first in range(0, channels, BK):
        c = first + o_k
        m_c = c < channels
        b_x = read_keys(p_n, x.channel, c, m_n, m_c, UPCAST)
        m = m_r[:, None] & m_c[None, :]
        state = add_dots(operand, at, c, m, b_x, state, UPCAST)
        if BOTH:
            other = add_dots(more, (b * count + r) * channels, c, m, b_x, other, UPCAST)
    s = with_unit(operand, state[0], set * count + r, m_r)
    return s, with_unit(more, other[0], b * count + r, m_r) if BOTH else other[0], m_n


@triton.jit
def with_unit(operand, s, r, m_r):
    if operand.unit is not None:
        s = s * tl.load(operand.unit + r, mask=m_r, other=0.0)[:, None]
    return s


@triton.jit
def of_frames(table_dots, at, n, m, frames, frame_size):
    """[BM, BN] What the frame's position adds to a product with key n."""
    return tl.load(table_dots + at[:, None] * frames + (n // frame_size)[None, :], mask=m, other=0.0)


@triton.jit(do_not_specialize=VARYING)
def qformer_dots_kernel(
    operand, x, out, keys, blocks, rows, sets, channels,
    UPCAST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """out fp32 [sets, R, keys] = operand . x [1, keys, C]: of frame positions."""
    set, block, tile = tile_of(rows, blocks, BM)
    r = tile * BM + tl.arange(0, BM)
    n = block * BN + tl.arange(0, BN)
    s, _, m_n = row_dots(operand, None, x, set * 0, set, r, n, keys, rows, channels, False, UPCAST, BM, BN, BK)
    p_out = out + (set * rows + r)[:, None] * keys + n[None, :]
    tl.store(p_out, s, mask=(r < rows)[:, None] & m_n[None, :])


@triton.jit(do_not_specialize=VARYING)
def qformer_scores_kernel(
    absorbed, x, table_dots, weights, exponents, totals,
    keys, blocks, rows, sets, frames, frame_size, channels,
    SHIFT: tl.constexpr, UPCAST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """weights [B, R, blocks BN] = exp(scores) 2^-exponents, at most 2^SHIFT and 0 for keys that are not read; exponents and
    totals, the sums of the weights, fp32 [B, blocks, R]. table_dots [sets, R, T] or None."""
    b, block, tile = tile_of(rows, blocks, BM)
    # [BM], [BN]
    r = tile * BM + tl.arange(0, BM)
    n = block * BN + tl.arange(0, BN)
    m_r = r < rows
    set = b % sets
    # [BM, BN]
    s, _, m_n = row_dots(absorbed, None, x, b, set, r, n, keys, rows, channels, False, UPCAST, BM, BN, BK)
    if table_dots is not None:
        s += of_frames(table_dots, set * rows + r, n, m_r[:, None] & m_n[None, :], frames, frame_size)
    s = tl.where(m_n[None, :], s, float("-inf"))
    largest = tl.max(s, axis=1)
    e = tl.where(largest == float("-inf"), NO_KEY, tl.ceil(largest * LOG2_E) - SHIFT)
    w = tl.exp2(((s - (e * LN_2_HIGH)[:, None]) - (e * LN_2_LOW)[:, None]) * LOG2_E)
    p_w = weights + (b * rows + r)[:, None] * (tl.cast(blocks, tl.int64) * BN) + n[None, :]
    tl.store(p_w, nearest(w, UPCAST), mask=m_r[:, None])
    at = (b * blocks + block) * rows + r
    tl.store(exponents + at, e, mask=m_r)
    tl.store(totals + at, tl.sum(w, axis=1), mask=m_r)


@triton.jit(do_not_specialize=VARYING)
def qformer_backward_scores_kernel(
    absorbed, upstream, x, table_dots, table_updots, lse, delta, p, ds, ds_exponents, totals,
    keys, blocks, rows, sets, samples, frames, frame_size, channels,
    SHIFT: tl.constexpr, UPCAST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """p = 2^SHIFT exp(s - lse) and ds = p (dp - delta), [B, R, blocks BN], and what they add up to in every block: totals fp32
    [2, B, blocks, R]. With ds_exponents [B, blocks, R] ds is stored times 2^-exponent, at most 2^SHIFT. lse, delta [B, R]."""
    b, block, tile = tile_of(rows, blocks, BM)
    # [BM], [BN]
    r = tile * BM + tl.arange(0, BM)
    n = block * BN + tl.arange(0, BN)
    m_r = r < rows
    set = b % sets
    # [BM, BN]
    s, dp, m_n = row_dots(absorbed, upstream, x, b, set, r, n, keys, rows, channels, True, UPCAST, BM, BN, BK)
    if table_dots is not None:
        m = m_r[:, None] & m_n[None, :]
        s += of_frames(table_dots, set * rows + r, n, m, frames, frame_size)
        dp += of_frames(table_updots, b * rows + r, n, m, frames, frame_size)
    b_lse = tl.load(lse + b * rows + r, mask=m_r, other=0.0)
    b_delta = tl.load(delta + b * rows + r, mask=m_r, other=0.0)
    b_p = tl.where(m_n[None, :], tl.exp2((s - b_lse[:, None]) * LOG2_E + SHIFT), 0.0)
    b_ds = b_p * (dp - b_delta[:, None])
    at = (b * blocks + block) * rows + r
    tl.store(totals + at, tl.sum(b_p, axis=1), mask=m_r)
    tl.store(totals + tl.cast(samples, tl.int64) * blocks * rows + at, tl.sum(b_ds, axis=1), mask=m_r)
    if ds_exponents is not None:
        largest = tl.max(tl.abs(b_ds), axis=1)
        e = tl.where(largest > 0, tl.ceil(tl.log2(tl.maximum(largest, 1e-37))) - SHIFT, -120.0)
        b_ds *= tl.exp2(-e)[:, None]
        tl.store(ds_exponents + at, e, mask=m_r)
    where = (b * rows + r)[:, None] * (tl.cast(blocks, tl.int64) * BN) + n[None, :]
    tl.store(p + where, nearest(b_p, UPCAST), mask=m_r[:, None])
    tl.store(ds + where, nearest(b_ds, UPCAST), mask=m_r[:, None])
