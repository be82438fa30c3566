"""Products of a head's weights with its rows: small beside what is done with the keys, and in float32 or more."""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.common.launch import pow2
from torch import Tensor

VARYING = ("rows", "inner")


@triton.jit(do_not_specialize=VARYING)
def qformer_product_kernel(
    a, b, out, a_h, a_row, a_inner, b_h, b_inner, b_column, out_h, out_row, out_column, scale, rows, columns, inner,
    ADD: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """out[h] = scale a[h] b[h], or that added to it, for heads h: a [rows, inner], b [inner, columns]."""
    tiles = tl.cdiv(columns, BN)
    h = tl.program_id(1).to(tl.int64)
    # [BM], [BN], [BK]
    r = (tl.program_id(0) // tiles * BM + tl.arange(0, BM)).to(tl.int64)
    n = (tl.program_id(0) % tiles * BN + tl.arange(0, BN)).to(tl.int64)
    o_k = tl.arange(0, BK).to(tl.int64)
    m_r = r < rows
    m_n = n < columns
    acc = tl.zeros([BM, BN], tl.float32)
    for first in range(0, inner, BK):
        k = first + o_k
        m_k = k < inner
        p_a = a + h * a_h + r[:, None] * a_row + k[None, :] * a_inner
        p_b = b + h * b_h + k[:, None] * b_inner + n[None, :] * b_column
        b_a = tl.load(p_a, mask=m_r[:, None] & m_k[None, :], other=0.0).to(tl.float32)
        b_b = tl.load(p_b, mask=m_k[:, None] & m_n[None, :], other=0.0).to(tl.float32)
        acc = tl.dot(b_a, b_b, acc, input_precision=PRECISION)
    acc *= scale
    p_out = out + h * out_h + r[:, None] * out_row + n[None, :] * out_column
    m = m_r[:, None] & m_n[None, :]
    if ADD:
        acc += tl.load(p_out, mask=m, other=0.0)
    tl.store(p_out, acc, mask=m)


def product(a: Tensor, b: Tensor, out: Tensor, scale: float, half: bool, add: bool = False) -> None:
    """out[h] = scale a[h] b[h] for every head h, fp32; `add`: to what stands there. a [H, rows, inner] and b [H, inner, columns]
    of any dtype and strides. `half`: the op's dtype has 16 bits, and three products of the tensor cores keep 21."""
    heads, rows, columns = out.shape
    if out.numel() == 0:
        return
    # few rows: narrow tiles, so that there are programs enough
    bm, bn = pow2(rows, 16, 32), pow2(columns, 16, 64 if rows > 512 else 16)
    with torch.cuda.device_of(out):
        qformer_product_kernel[triton.cdiv(rows, bm) * triton.cdiv(columns, bn), heads](
            a, b, out, *a.stride(), *b.stride(), *out.stride(), scale, rows, columns, a.shape[2],
            ADD=add, PRECISION="tf32x3" if half else "ieee", BM=bm, BN=bn, BK=32, num_warps=4, num_stages=3,
        )  # fmt: skip


def of_heads(rows: Tensor, heads: int) -> Tensor:
    """[B, Nq, H *], contiguous, as [H, B Nq, *]."""
    batch, queries, width = rows.shape
    per_head = width // heads
    return rows.view(batch * queries, heads, per_head).transpose(0, 1)


def absorb(rows: Tensor, weights: Tensor, heads: int, scale: float, half: bool) -> Tensor:
    """What rows [B, Nq, H D] behind weights [H D, C] are to keys, times `scale`: fp32 [B, Nq H, C]. float32 by way of float64: a
    row's rounding is most of what its scores are off by, and softmax turns that into relative errors."""
    (batch, queries, _), channels = rows.shape, weights.shape[1]
    out = rows.new_empty(batch, queries, heads * channels, dtype=torch.float32)
    a, b = of_heads(rows.contiguous(), heads), weights.unflatten(0, (heads, -1))
    if half:
        product(a, b, of_heads(out, heads), scale, half)
    else:
        of_heads(out, heads).copy_(scale * (a.double() @ b.double()))
    return out.view(batch, queries * heads, channels)


def project(sums: Tensor, weights: Tensor, heads: int, half: bool) -> Tensor:
    """Sums of keys [B, Nq H, C] by weights [H D, C]: fp32 [B, Nq, H D]."""
    batch, rows, channels = sums.shape
    out = sums.new_empty(batch, rows // heads, weights.shape[0])
    of_each = sums.view(batch, rows // heads, heads * channels)
    product(of_heads(of_each, heads), weights.unflatten(0, (heads, -1)).mT, of_heads(out, heads), 1.0, half)
    return out


def outer(rows: Tensor, sums: Tensor, into: Tensor, heads: int, half: bool) -> None:
    """into fp32 [H D, C] += rows [B, Nq, H D] by sums [B, Nq H, C], added over samples and queries."""
    of_each = sums.view(*rows.shape[:2], -1)
    a, b = of_heads(rows.contiguous(), heads).mT, of_heads(of_each, heads)
    product(a, b, into.unflatten(0, (heads, -1)), 1.0, half, add=True)
