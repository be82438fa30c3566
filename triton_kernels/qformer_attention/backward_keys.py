"""Gradient of the keys, dx_t = sum_r ds_rt A_r + p_rt G_r, and of frame positions, the same by the weights of frames."""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.common.launch import upcast
from longreel.triton_kernels.qformer_attention.config import keys_config
from longreel.triton_kernels.qformer_attention.forward import Weights, by_rows
from longreel.triton_kernels.qformer_attention.launch import VARYING, QFormerCall, nearest, operand_of
from longreel.triton_kernels.qformer_attention.sums import read_weights
from torch import Tensor


@triton.jit
def add_rows(
    weights, gain, operand, b, r, n, c, m_c, block, blocks, rows, channels, acc, BN: tl.constexpr, UPCAST: tl.constexpr
):  # fmt: skip
    """acc [keys n, channels c] + weights^T operand."""
    b_w = read_weights(weights, gain, b, r, n, block, blocks, rows, weights.dtype.element_ty, BN, UPCAST)
    at = (b * rows + r)[:, None] * channels + c[None, :]
    m = (r < rows)[:, None] & m_c[None, :]
    b_r = tl.load(operand.hi + at, mask=m, other=0.0)
    if UPCAST:
        b_r = b_r.to(tl.float32)
    acc = tl.dot(tl.trans(b_w), b_r, acc, input_precision="ieee")
    if operand.lo is not None:
        b_r = tl.load(operand.lo + at, mask=m, other=0.0)
        if UPCAST:
            b_r = b_r.to(tl.float32)
        acc = tl.dot(tl.trans(b_w), b_r, acc, input_precision="ieee")
    return acc


@triton.jit(do_not_specialize=VARYING)
def qformer_backward_keys_kernel(
    ds, ds_gain, ds_rows, p, p_gain, p_rows, factor, dx, keys, blocks, rows, channels,
    UPCAST: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """dx [B, keys, C] = factor [B, blocks] (None: 1) times ds^T ds_rows + p^T p_rows."""
    channel_tiles = tl.cdiv(channels, BC)
    slice = tl.program_id(0) % channel_tiles
    key_tiles = tl.cdiv(keys, BM)
    tile = tl.program_id(0) // channel_tiles % key_tiles
    b = (tl.program_id(0) // channel_tiles // key_tiles).to(tl.int64)
    # [BM], [BC], [BR]
    n = tile * BM + tl.arange(0, BM)
    c = slice * BC + tl.arange(0, BC)
    o_r = tl.arange(0, BR)
    m_c = c < channels
    block = tile * BM // BN
    # [BM, BC]
    acc = tl.zeros([BM, BC], tl.float32)
    for first in range(0, rows, BR):
        r = first + o_r
        acc = add_rows(ds, ds_gain, ds_rows, b, r, n, c, m_c, block, blocks, rows, channels, acc, BN, UPCAST)
        acc = add_rows(p, p_gain, p_rows, b, r, n, c, m_c, block, blocks, rows, channels, acc, BN, UPCAST)
    if factor is not None:
        acc *= tl.load(factor + b * blocks + block)
    p_dx = dx + (b * keys + n)[:, None] * channels + c[None, :]
    tl.store(p_dx, nearest(acc, dx.dtype.element_ty == tl.bfloat16 and UPCAST), mask=(n < keys)[:, None] & m_c[None, :])


def gradient_of_keys(
    call: QFormerCall, ds: Weights, p: Weights, ds_rows: Tensor, p_rows: Tensor, dx: Tensor, exactly: bool = False
) -> None:
    """Fills dx [B, S, C], of any dtype, contiguous, from rows fp32 [B, R, C]; `exactly`: with what 16 bits take off the rows, the
    same for every key, so that it adds up in a frame."""
    batch, keys, channels = dx.shape
    dtype = call.x.dtype
    a, g = operand_of(by_rows(ds_rows, ds.unit), dtype, exactly), operand_of(by_rows(p_rows, p.unit), dtype, exactly)
    ds_gain = p_gain = factor = None
    if a.unit is not None and g.unit is not None:
        # [B, blocks, R]: what a weight times its row is to be multiplied with, and the largest of a block taken out of them
        ones = torch.ones(batch, ds.blocks, call.rows, dtype=torch.float32, device=dx.device)
        ds_gain, p_gain = ((ones if of.gain is None else of.gain) * row.unit[:, None] for of, row in ((ds, a), (p, g)))
        factor = torch.maximum(ds_gain.amax(2), p_gain.amax(2)).clamp(min=1e-37)
        ds_gain, p_gain = ds_gain / factor[..., None], p_gain / factor[..., None]
    config = keys_config(ds.block, channels, call.x.element_size(), call.card.shared)
    programs = batch * triton.cdiv(keys, config.rows) * triton.cdiv(channels, config.columns)
    with torch.cuda.device_of(dx):
        qformer_backward_keys_kernel[(programs,)](
            ds.values, ds_gain, a._replace(unit=None), p.values, p_gain, g._replace(unit=None), factor, dx,
            keys, ds.blocks, call.rows, channels,
            UPCAST=upcast(call.x), BM=config.rows, BC=config.columns, BN=ds.block, BR=config.step,
            num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
