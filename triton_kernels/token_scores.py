"""token_scores: products with the queries and with the frame before, the mean of a frame, and what is unlike it.

Three kernels: tiles of tokens, tiles of channels of every frame's mean, and tiles of tokens again. The later ones find a frame in
L2 where the chunk is short; sums run in one order.
"""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.common.launch import DTYPES, pow2
from torch import Tensor

__all__ = ["DTYPES", "token_scores"]

TOKENS = 32
CHANNELS = 64
SHORTEST = 1e-8


@triton.jit(do_not_specialize=("tokens",))
def products_kernel(
    x, query, before, products, change, lengths, x_frame, x_token, x_channel, q_row, q_channel, b_token, b_channel,
    tokens, channels, queries, scale, BN: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BEFORE: tl.constexpr,
):  # fmt: skip
    """One program: BN tokens of a frame, BM queries; the first of these makes lengths and change."""
    tiles = tl.cdiv(tokens, BN)
    frame = (tl.program_id(0) // tiles).to(tl.int64)
    o_n = tl.program_id(0) % tiles * BN + tl.arange(0, BN)
    m_n = o_n < tokens
    o_m = tl.program_id(1) * BM + tl.arange(0, BM)
    m_m = o_m < queries
    p_x = x + frame * x_frame + o_n.to(tl.int64) * x_token
    # the frame before: in the video, or given
    f_n = frame + o_n * 0
    if BEFORE:
        p_b = before + o_n.to(tl.int64)[:, None] * b_token

    # [BN, BM], [BN]
    acc = tl.zeros([BN, BM], tl.float32)
    xx = tl.zeros([BN], tl.float32)
    xy = tl.zeros([BN], tl.float32)
    yy = tl.zeros([BN], tl.float32)
    for c in range(0, channels, BC):
        o_c = (c + tl.arange(0, BC)).to(tl.int64)
        m_c = o_c < channels
        # [BN, BC]
        b_x = tl.load(p_x[:, None] + o_c[None, :] * x_channel, mask=m_n[:, None] & m_c[None, :], other=0.0)
        b_x = b_x.to(tl.float32)
        # [BC, BM]
        p_q = query + o_c[:, None] * q_channel + o_m[None, :].to(tl.int64) * q_row
        b_q = tl.load(p_q, mask=m_c[:, None] & m_m[None, :], other=0.0).to(tl.float32)
        acc += tl.dot(b_x, b_q, input_precision="ieee")
        xx += tl.sum(b_x * b_x, axis=1)
        if tl.program_id(1) == 0:
            here = m_n[:, None] & m_c[None, :]
            p_y = p_x[:, None] - x_frame + o_c[None, :] * x_channel
            b_y = tl.load(p_y, mask=(f_n > 0)[:, None] & here, other=0.0).to(tl.float32)
            if BEFORE:
                b_y += tl.load(p_b + o_c[None, :] * b_channel, mask=(f_n == 0)[:, None] & here, other=0.0).to(
                    tl.float32
                )
            xy += tl.sum(b_x * b_y, axis=1)
            yy += tl.sum(b_y * b_y, axis=1)

    row = frame * tokens + o_n
    tl.store(products + row[:, None] * queries + o_m[None, :], acc * scale, mask=m_n[:, None] & m_m[None, :])
    if tl.program_id(1) == 0:
        length = tl.maximum(tl.sqrt(xx), 1e-8)
        apart = 1.0 - xy / (length * tl.maximum(tl.sqrt(yy), 1e-8))
        if not BEFORE:
            apart = tl.where(f_n > 0, apart, float("inf"))
        tl.store(change + row, apart, mask=m_n)
        tl.store(lengths + row, length, mask=m_n)


@triton.jit(do_not_specialize=("tokens",))
def means_kernel(
    x, lengths, means, x_frame, x_token, x_channel, tokens, channels, BN: tl.constexpr, BC: tl.constexpr
):  # fmt: skip
    """One program: BC channels of a frame's mean of tokens of length 1."""
    frame = tl.program_id(0).to(tl.int64)
    o_c = (tl.program_id(1) * BC + tl.arange(0, BC)).to(tl.int64)
    m_c = o_c < channels
    # [BC]
    acc = tl.zeros([BC], tl.float32)
    for n in range(0, tokens, BN):
        o_n = (n + tl.arange(0, BN)).to(tl.int64)
        m_n = o_n < tokens
        p_x = x + frame * x_frame + o_n[:, None] * x_token + o_c[None, :] * x_channel
        b_x = tl.load(p_x, mask=m_n[:, None] & m_c[None, :], other=0.0).to(tl.float32)
        length = tl.load(lengths + frame * tokens + o_n, mask=m_n, other=1.0)
        acc += tl.sum(b_x / length[:, None], axis=0)
    tl.store(means + frame * channels + o_c, acc / tokens, mask=m_c)


@triton.jit(do_not_specialize=("tokens",))
def unlike_kernel(
    x, lengths, means, uniqueness, x_frame, x_token, x_channel, tokens, channels, BN: tl.constexpr, BC: tl.constexpr
):  # fmt: skip
    """One program: BN tokens of a frame."""
    tiles = tl.cdiv(tokens, BN)
    frame = (tl.program_id(0) // tiles).to(tl.int64)
    o_n = tl.program_id(0) % tiles * BN + tl.arange(0, BN)
    m_n = o_n < tokens
    p_x = x + frame * x_frame + o_n.to(tl.int64) * x_token
    # [BC]
    mm = tl.zeros([BC], tl.float32)
    for c in range(0, channels, BC):
        o_c = (c + tl.arange(0, BC)).to(tl.int64)
        mean = tl.load(means + frame * channels + o_c, mask=o_c < channels, other=0.0)
        mm += mean * mean
    row = frame * tokens + o_n
    length = tl.load(lengths + row, mask=m_n, other=1.0)
    mean_length = tl.maximum(tl.sqrt(tl.sum(mm, axis=0)), 1e-8)
    # 1 - cos as half a squared distance, which does not cancel where it is small; what has no length is like nothing
    acc = tl.where(length > 1e-8, 0.0, 1.0) + tl.where(mean_length > 1e-8, 0.0, 1.0)
    for c in range(0, channels, BC):
        o_c = (c + tl.arange(0, BC)).to(tl.int64)
        m_c = o_c < channels
        b_x = tl.load(p_x[:, None] + o_c[None, :] * x_channel, mask=m_n[:, None] & m_c[None, :], other=0.0)
        mean = tl.load(means + frame * channels + o_c, mask=m_c, other=0.0)
        apart = b_x.to(tl.float32) / length[:, None] - (mean / mean_length)[None, :]
        acc += tl.sum(apart * apart, axis=1)
    tl.store(uniqueness + row, 0.5 * acc, mask=m_n)


def token_scores(patches: Tensor, query: Tensor, before: Tensor | None, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """patches [F, N, C], query [M, C], before [N, C], any strides -> products [F, N, M], change [F, N], uniqueness [F, N]."""
    (frames, tokens, channels), queries = patches.shape, query.shape[0]
    products = patches.new_empty(frames, tokens, queries, dtype=torch.float32)
    change, uniqueness, lengths = (patches.new_empty(frames, tokens, dtype=torch.float32) for _ in range(3))
    if change.numel() == 0:
        return products, change, uniqueness
    means = patches.new_empty(frames, channels, dtype=torch.float32)
    tiles, rows = frames * triton.cdiv(tokens, TOKENS), pow2(queries, 16, 64)
    behind = (0, 0) if before is None else before.stride()
    with torch.cuda.device_of(patches):
        products_kernel[tiles, max(1, triton.cdiv(queries, rows))](
            patches, query, before, products, change, lengths, *patches.stride(), *query.stride(), *behind, tokens, channels,
            queries, scale, BN=TOKENS, BM=rows, BC=CHANNELS, BEFORE=before is not None, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        means_kernel[frames, triton.cdiv(channels, CHANNELS)](
            patches, lengths, means, *patches.stride(), tokens, channels, BN=TOKENS, BC=CHANNELS, num_warps=4,
            enable_fp_fusion=True,
        )  # fmt: skip
        unlike_kernel[(tiles,)](
            patches, lengths, means, uniqueness, *patches.stride(), tokens, channels, BN=TOKENS, BC=CHANNELS, num_warps=4,
            enable_fp_fusion=True,
        )  # fmt: skip
    return products, change, uniqueness
