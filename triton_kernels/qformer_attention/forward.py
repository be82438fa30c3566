"""qformer_attention forward. For row r = (n, h) and key t, with A the absorbed queries, e the exponents of `scores`:

    A_r = scale W_k,h^T q_hn                    s_rt = A_r . x_t + A_r . table[frame of t]
    w_rt = exp(s_rt) 2^-e, in blocks of keys    E_r = the largest e, L_r = sum_t w_rt 2^(e - E_r)
    U_r = sum_t w_rt 2^(e - E_r) x_t / L_r      out_hn = W_v,h U_r + b_v        lse_r = E_r ln 2 + ln L_r

Frame positions are linear in both: they enter the scores as products with the table, and U as sums over the frames.
"""

import math
from typing import NamedTuple

import torch
import triton
from longreel.triton_kernels.common.launch import pow2, upcast
from longreel.triton_kernels.qformer_attention.config import key_block, scores_config, splits, sums_config
from longreel.triton_kernels.qformer_attention.launch import WORKSPACE, QFormerCall, keys_of, operand_of
from longreel.triton_kernels.qformer_attention.products import absorb, project
from longreel.triton_kernels.qformer_attention.scores import qformer_dots_kernel, qformer_scores_kernel
from longreel.triton_kernels.qformer_attention.sums import qformer_frame_sums_kernel, qformer_sums_kernel
from torch import Tensor

# fp16 has 14 powers of two above 1 that a weight of 1 at most leaves unused
SHIFTS = {torch.float32: 0, torch.bfloat16: 0, torch.float16: 14}


class Weights(NamedTuple):
    """values [B, R, blocks block], 0 beyond the keys, times gain [B, blocks, R] (None: 1), a power of two of 1 at most, of their
    block of keys, times unit [B, R] of their row."""

    values: Tensor
    gain: Tensor | None
    unit: Tensor | float
    block: int

    @property
    def blocks(self) -> int:
        return self.values.shape[2] // self.block


def samples_at_once(call: QFormerCall, weights: int) -> int:
    """Samples whose workspace of so many weights a row and key stays within WORKSPACE, one at least."""
    size, keys = call.x.element_size(), call.x.shape[1]
    each = weights * call.rows * (keys * size + 8 * call.channels)
    return max(1, WORKSPACE // max(each, 1))


def table_dots(call: QFormerCall, rows: Tensor) -> Tensor | None:
    """fp32 [sets, R, T]: rows [sets, R, C] times frame positions."""
    if call.frame_table is None:
        return None
    sets, count, channels = rows.shape
    frames = call.frame_table.shape[0]
    block = key_block(frames, call.x.element_size())
    config = scores_config(count, block, call.x.element_size(), call.card.shared, operands=2)
    out = torch.empty(sets, count, frames, dtype=torch.float32, device=call.x.device)
    blocks = triton.cdiv(frames, block)
    with torch.cuda.device_of(call.x):
        qformer_dots_kernel[(sets * blocks * triton.cdiv(count, config.rows),)](
            operand_of(rows, call.x.dtype, exactly=True), keys_of(call.frame_table[None]), out,
            frames, blocks, count, sets, channels,
            UPCAST=upcast(call.x), BM=config.rows, BN=block, BK=config.step,
            num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
    return out


def softmax_weights(call: QFormerCall, absorbed: Tensor) -> tuple[Weights, Tensor, Tensor]:
    """The weights w, what they add up to on the scale of their row, and lse: fp32 [B, R]. absorbed fp32 [sets, R, C]."""
    x, rows = call.x, call.rows
    batch, keys, channels = x.shape
    block = key_block(keys, x.element_size())
    blocks = triton.cdiv(keys, block)
    config = scores_config(rows, block, x.element_size(), call.card.shared)
    dots = table_dots(call, absorbed)
    values = x.new_empty(batch, rows, blocks * block)
    exponents, totals = torch.empty(2, batch, blocks, rows, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        qformer_scores_kernel[(batch * blocks * triton.cdiv(rows, config.rows),)](
            operand_of(absorbed, x.dtype), keys_of(x, call.key_mask), dots, values, exponents, totals,
            keys, blocks, rows, absorbed.shape[0], 0 if dots is None else dots.shape[2], call.frame_size, channels,
            SHIFT=SHIFTS[x.dtype], UPCAST=upcast(x), BM=config.rows, BN=block, BK=config.step,
            num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
    largest = exponents.amax(1)
    gain = torch.exp2(exponents - largest[:, None])
    total = (totals * gain).sum(1)
    return Weights(values, gain, 1.0, block), total, largest * math.log(2) + total.log()


def sums_of_keys(call: QFormerCall, weights: Weights, x: Tensor, mask: Tensor | None) -> Tensor:
    """fp32 [B, R, C]: keys x [B or 1, S, C] by their weights."""
    batch, rows, _ = weights.values.shape
    keys, channels = x.shape[1:]
    card = call.card
    config = sums_config(rows, channels, x.element_size(), card.shared)
    programs = batch * triton.cdiv(rows, config.rows) * triton.cdiv(channels, config.columns)
    parts = splits(weights.blocks, programs, card.multiprocessors)
    partial = torch.empty(parts, batch, rows, channels, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        qformer_sums_kernel[(programs * parts,)](
            weights.values, weights.gain, keys_of(x.expand(batch, -1, -1), mask), partial,
            keys, weights.blocks, rows, batch, parts, channels,
            UPCAST=upcast(x), BM=config.rows, BC=config.columns, BN=weights.block, BS=min(config.step, weights.block),
            num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
    return partial[0] if parts == 1 else partial.sum(0)


def weights_of_frames(call: QFormerCall, weights: Weights) -> Weights | None:
    """What the weights of a frame's keys add up to: weights of frame positions."""
    if call.frame_table is None:
        return None
    batch, rows, _ = weights.values.shape
    frames = call.frame_table.shape[0]
    block = key_block(frames, call.x.element_size())
    sums = torch.empty(batch, rows, frames, dtype=torch.float32, device=call.x.device)
    bm = pow2(rows, 16, 32)
    with torch.cuda.device_of(call.x):
        qformer_frame_sums_kernel[(batch * frames * triton.cdiv(rows, bm),)](
            weights.values, weights.gain, sums, weights.blocks, rows, frames, call.frame_size,
            BM=bm, BN=weights.block, BS=pow2(call.frame_size, 16, 128), num_warps=4,
        )  # fmt: skip
    values = weights.values.new_zeros(batch, rows, triton.cdiv(frames, block) * block)
    values[..., :frames] = sums / call.frame_size
    return Weights(values, None, weights.unit * call.frame_size, block)


def sums_by(call: QFormerCall, weights: Weights, of_frames: Weights | None) -> Tensor:
    """fp32 [B, R, C], to be multiplied with the weights' unit: keys by their weights, and frame positions by theirs."""
    sums = sums_of_keys(call, weights, call.x, call.key_mask)
    if of_frames is not None:
        assert call.frame_table is not None
        sums.add_(sums_of_keys(call, of_frames, call.frame_table[None], None), alpha=call.frame_size)
    return sums


def by_rows(tensor: Tensor, factor: Tensor | float) -> Tensor:
    """[B, R, C], or [B, Nq, H D], times a factor [B, R]."""
    if not isinstance(factor, Tensor):
        return tensor * factor
    return (tensor.reshape(*factor.shape, -1) * factor[..., None]).view(tensor.shape)


def inverse(total: Tensor) -> Tensor:
    """1 / total; 0 for a sample without a key, whose weights are all 0."""
    return torch.where(total > 0, 1 / total, 0.0)


def forward(whole: QFormerCall) -> tuple[Tensor, Tensor]:
    """out fp32 [B, Nq, H D], lse fp32 [B, H, Nq]."""
    batch, dtype = whole.x.shape[0], whole.x.dtype
    half = dtype != torch.float32
    out = torch.empty(batch, *whole.query.shape[1:], dtype=torch.float32, device=whole.x.device)
    lse = out.new_empty(batch, whole.heads, whole.queries)
    at_once = samples_at_once(whole, 1)
    for begin in range(0, batch, at_once):
        call = whole.samples(begin, begin + at_once)
        if begin == 0 or whole.query.shape[0] > 1:
            absorbed = absorb(call.query, call.w_k, call.heads, call.scale, half)
        weights, total, log_sums = softmax_weights(call, absorbed)
        sums = sums_by(call, weights, weights_of_frames(call, weights))
        made = by_rows(project(sums, call.w_v, call.heads, half), inverse(total))
        if call.b_v is not None:
            made += torch.where(total[:, :1, None] > 0, call.b_v, 0.0)
        out[begin : begin + at_once] = made
        lse[begin : begin + at_once] = log_sums.view(-1, call.queries, call.heads).transpose(1, 2)
    return out, lse
