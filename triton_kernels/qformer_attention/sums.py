"""Sums of keys by weights: the values before their projection, and the gradient of the absorbed queries."""

import triton
import triton.language as tl
from longreel.triton_kernels.qformer_attention.launch import VARYING, keys_at, read_keys


@triton.jit
def read_weights(weights, gain, b, r, n, block, blocks, rows, dtype, BN: tl.constexpr, UPCAST: tl.constexpr):
    """[rows r, keys n] of the weights [B, R, blocks BN], times the gain [B, blocks, R] of their block (None: 1)."""
    m_r = r < rows
    p_w = weights + (b * rows + r)[:, None] * (tl.cast(blocks, tl.int64) * BN) + n[None, :]
    b_w = tl.load(p_w, mask=m_r[:, None], other=0.0)
    if gain is not None:
        b_g = tl.load(gain + (b * blocks + block) * rows + r, mask=m_r, other=0.0)
        # by powers of two: nothing is rounded
        b_w = (b_w.to(tl.float32) * b_g[:, None]).to(dtype)
    if UPCAST:
        b_w = b_w.to(tl.float32)
    return b_w


@triton.jit(do_not_specialize=VARYING)
def qformer_sums_kernel(
    weights, gain, x, partial, keys, blocks, rows, samples, splits, channels,
    UPCAST: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """partial fp32 [splits, B, R, C]: the sums over one part of the keys, whole blocks of BN, BS keys a step."""
    row_tiles = tl.cdiv(rows, BM)
    channel_tiles = tl.cdiv(channels, BC)
    tile = tl.program_id(0) % row_tiles
    slice = tl.program_id(0) // row_tiles % channel_tiles
    part = tl.program_id(0) // row_tiles // channel_tiles
    split = part % splits
    b = (part // splits).to(tl.int64)
    # [BM], [BC], [BS]
    r = tile * BM + tl.arange(0, BM)
    c = slice * BC + tl.arange(0, BC)
    o_n = tl.arange(0, BS)
    m_c = c < channels
    share = tl.cdiv(blocks, splits) * BN
    # [BM, BC]
    acc = tl.zeros([BM, BC], tl.float32)
    for first in range(split * share, tl.minimum(split * share + share, keys), BS):
        n = first + o_n
        p_n, m_n = keys_at(x, b, n, keys)
        b_x = read_keys(p_n, x.channel, c, m_n, m_c, UPCAST)
        b_w = read_weights(weights, gain, b, r, n, first // BN, blocks, rows, weights.dtype.element_ty, BN, UPCAST)
        acc = tl.dot(b_w, b_x, acc, input_precision="ieee")
    p_out = partial + ((tl.cast(split, tl.int64) * samples + b) * rows + r)[:, None] * channels + c[None, :]
    tl.store(p_out, acc, mask=(r < rows)[:, None] & m_c[None, :])


@triton.jit(do_not_specialize=VARYING)
def qformer_frame_sums_kernel(
    weights, gain, out, blocks, rows, frames, frame_size, BM: tl.constexpr, BN: tl.constexpr, BS: tl.constexpr
):
    """out fp32 [B, R, T] = what the weights of every frame's keys add up to."""
    row_tiles = tl.cdiv(rows, BM)
    tile = tl.program_id(0) % row_tiles
    frame = tl.program_id(0) // row_tiles % frames
    b = (tl.program_id(0) // row_tiles // frames).to(tl.int64)
    # [BM]
    r = tile * BM + tl.arange(0, BM)
    m_r = r < rows
    p_w = weights + (b * rows + r)[:, None] * (tl.cast(blocks, tl.int64) * BN)
    acc = tl.zeros([BM, BS], tl.float32)
    for first in range(0, frame_size, BS):
        # [BS]
        j = first + tl.arange(0, BS)
        n = frame * frame_size + j
        m = m_r[:, None] & (j < frame_size)[None, :]
        b_w = tl.load(p_w + n[None, :], mask=m, other=0.0).to(tl.float32)
        if gain is not None:
            p_g = gain + (b * blocks + n // BN)[None, :] * rows + r[:, None]
            b_w *= tl.load(p_g, mask=m, other=0.0)
        acc += b_w
    tl.store(out + (b * rows + r) * frames + frame, tl.sum(acc, axis=1), mask=m_r)
