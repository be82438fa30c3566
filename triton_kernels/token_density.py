"""token_density: tiles of products and their mirrors, then rows of cosines twice: the nearest of each token, and the nearest
denser one."""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.common.launch import DTYPES, upcast
from torch import Tensor

__all__ = ["DTYPES", "token_density"]

TOKENS = 64
CHANNELS = 32
# Rows and columns that a program of the later sweeps has at a time.
ROWS, COLUMNS = 16, 128


@triton.jit(do_not_specialize=("tokens",))
def products_kernel(
    x, likeness, lengths, x_token, x_channel, tokens, channels, BN: tl.constexpr, BC: tl.constexpr, UPCAST: tl.constexpr
):  # fmt: skip
    """One program: the products of BN tokens with BN others, where those are not before them."""
    if tl.program_id(1) >= tl.program_id(0):
        o_n = tl.program_id(0) * BN + tl.arange(0, BN)
        o_m = tl.program_id(1) * BN + tl.arange(0, BN)
        m_n, m_m = o_n < tokens, o_m < tokens
        p_n = x + o_n.to(tl.int64)[:, None] * x_token
        p_m = x + o_m.to(tl.int64)[None, :] * x_token
        # [BN, BN]
        acc = tl.zeros([BN, BN], tl.float32)
        for c in range(0, channels, BC):
            o_c = (c + tl.arange(0, BC)).to(tl.int64)
            m_c = o_c < channels
            # [BN, BC], [BC, BN]
            b_n = tl.load(p_n + o_c[None, :] * x_channel, mask=m_n[:, None] & m_c[None, :], other=0.0)
            b_m = tl.load(p_m + o_c[:, None] * x_channel, mask=m_m[None, :] & m_c[:, None], other=0.0)
            if UPCAST:
                b_n, b_m = b_n.to(tl.float32), b_m.to(tl.float32)
            acc += tl.dot(b_n, b_m, input_precision="ieee")
        n, m = o_n.to(tl.int64), o_m.to(tl.int64)
        inside = m_n[:, None] & m_m[None, :]
        tl.store(likeness + n[:, None] * tokens + m[None, :], acc, mask=inside)
        if tl.program_id(1) > tl.program_id(0):
            tl.store(likeness + m[None, :] * tokens + n[:, None], acc, mask=inside)
        else:
            own = tl.sum(tl.where(o_n[:, None] == o_m[None, :], acc, 0.0), axis=1)
            tl.store(lengths + o_n, tl.maximum(tl.sqrt(own), 1e-12), mask=m_n)


@triton.jit(do_not_specialize=("tokens",))
def density_kernel(likeness, lengths, density, tokens, BN: tl.constexpr, BM: tl.constexpr):  # fmt: skip
    """One program: cosines of BN tokens with all, in place of their products, and the four nearest of each."""
    o_n = tl.program_id(0) * BN + tl.arange(0, BN)
    m_n = o_n < tokens
    p_n = likeness + o_n.to(tl.int64)[:, None] * tokens
    own = tl.load(lengths + o_n, mask=m_n, other=1.0)
    # [BN], falling
    first = tl.full([BN], float("-inf"), tl.float32)
    second, third, fourth = first, first, first
    for m in range(0, tokens, BM):
        o_m = m + tl.arange(0, BM)
        m_m = o_m < tokens
        inside = m_n[:, None] & m_m[None, :]
        # [BN, BM]
        products = tl.load(p_n + o_m[None, :], mask=inside, other=0.0)
        cosines = products / (own[:, None] * tl.load(lengths + o_m, mask=m_m, other=1.0)[None, :])
        tl.store(p_n + o_m[None, :], cosines, mask=inside)
        left = tl.where(inside & (o_n[:, None] != o_m[None, :]), cosines, float("-inf"))
        for _ in tl.static_range(4):
            greatest, at = tl.max(left, axis=1, return_indices=True)
            left = tl.where(tl.arange(0, BM)[None, :] == at[:, None], float("-inf"), left)
            first, greatest = tl.maximum(first, greatest), tl.minimum(first, greatest)
            second, greatest = tl.maximum(second, greatest), tl.minimum(second, greatest)
            third, greatest = tl.maximum(third, greatest), tl.minimum(third, greatest)
            fourth = tl.maximum(fourth, greatest)
    apart = tl.where(first > float("-inf"), tl.maximum(2.0 - 2.0 * first, 0.0), 0.0)
    apart += tl.where(second > float("-inf"), tl.maximum(2.0 - 2.0 * second, 0.0), 0.0)
    apart += tl.where(third > float("-inf"), tl.maximum(2.0 - 2.0 * third, 0.0), 0.0)
    apart += tl.where(fourth > float("-inf"), tl.maximum(2.0 - 2.0 * fourth, 0.0), 0.0)
    greatest = tl.minimum(tl.maximum(tokens - 1, 1), 4).to(tl.float32)
    tl.store(density + o_n, tl.exp(-apart / greatest), mask=m_n)


@triton.jit(do_not_specialize=("tokens",))
def denser_kernel(likeness, density, denser, tokens, BN: tl.constexpr, BM: tl.constexpr):  # fmt: skip
    """One program: the nearest denser token of BN."""
    o_n = tl.program_id(0) * BN + tl.arange(0, BN)
    m_n = o_n < tokens
    p_n = likeness + o_n.to(tl.int64)[:, None] * tokens
    own = tl.load(density + o_n, mask=m_n, other=0.0)
    # [BN]
    best = tl.full([BN], float("-inf"), tl.float32)
    least = tl.full([BN], float("inf"), tl.float32)
    for m in range(0, tokens, BM):
        o_m = m + tl.arange(0, BM)
        m_m = o_m < tokens
        inside = m_n[:, None] & m_m[None, :]
        # [BN, BM]
        cosines = tl.load(p_n + o_m[None, :], mask=inside, other=0.0)
        other = tl.load(density + o_m, mask=m_m, other=0.0)
        ahead = (other[None, :] > own[:, None]) | ((other[None, :] == own[:, None]) & (o_m[None, :] < o_n[:, None]))
        best = tl.maximum(best, tl.max(tl.where(inside & ahead, cosines, float("-inf")), axis=1))
        least = tl.minimum(least, tl.min(tl.where(inside, cosines, float("inf")), axis=1))
    tl.store(denser + o_n, tl.where(best > float("-inf"), best, least), mask=m_n)


def token_density(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x [n, C], any strides -> likeness [n, n], density [n], denser [n]."""
    tokens, channels = x.shape
    likeness = x.new_empty(tokens, tokens, dtype=torch.float32)
    density, denser, lengths = (x.new_empty(tokens, dtype=torch.float32) for _ in range(3))
    if tokens == 0:
        return likeness, density, denser
    tiles, rows = triton.cdiv(tokens, TOKENS), triton.cdiv(tokens, ROWS)
    with torch.cuda.device_of(x):
        products_kernel[tiles, tiles](
            x, likeness, lengths, *x.stride(), tokens, channels, BN=TOKENS, BC=CHANNELS, UPCAST=upcast(x), num_warps=4,
            enable_fp_fusion=True,
        )  # fmt: skip
        density_kernel[(rows,)](
            likeness, lengths, density, tokens, BN=ROWS, BM=COLUMNS, num_warps=4, enable_fp_fusion=True
        )
        denser_kernel[(rows,)](
            likeness, density, denser, tokens, BN=ROWS, BM=COLUMNS, num_warps=4, enable_fp_fusion=True
        )
    return likeness, density, denser
