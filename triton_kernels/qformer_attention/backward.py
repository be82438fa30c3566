"""qformer_attention backward. With A and U as in `forward`, G_r = W_v,h^T g_hn of the output's gradient g, x with its frame's
position, sums over the keys t of a row r:

    p_rt = exp(s_rt - lse_r)    dp_rt = G_r . x_t    delta_r = g_hn . (out_hn - b_v)    ds_rt = p_rt (dp_rt - delta_r)
    dA_r = sum_t ds_rt x_t      U_r = sum_t p_rt x_t
    dq_hn = scale W_k,h dA_r    dW_k,h = scale sum_n q_hn dA_r    dW_v,h = sum_n g_hn U_r
    dx_t = sum_r ds_rt A_r + p_rt G_r

The rounding of an fp32 lse would scale whole rows of p, and dp is made of other numbers than delta: what p adds up to is counted
again, P_r, and ds, whose sum is 0, too, D_r. So p stands for p / P and ds for (ds - p D / P) / P; where both meet rows, the rows
take it: A / P and (G - A D / P) / P.
"""

from typing import NamedTuple

import torch
import triton
from longreel.triton_kernels.common.launch import upcast
from longreel.triton_kernels.qformer_attention.backward_keys import gradient_of_keys
from longreel.triton_kernels.qformer_attention.config import key_block, scores_config
from longreel.triton_kernels.qformer_attention.forward import (
    SHIFTS,
    Weights,
    by_rows,
    inverse,
    samples_at_once,
    sums_by,
    table_dots,
    weights_of_frames,
)
from longreel.triton_kernels.qformer_attention.launch import QFormerCall, keys_of, operand_of
from longreel.triton_kernels.qformer_attention.products import absorb, outer, project
from longreel.triton_kernels.qformer_attention.scores import qformer_backward_scores_kernel
from torch import Tensor


class Gradients(NamedTuple):
    """Whether the op's inputs need a gradient, or their gradients."""

    query: Tensor
    x: Tensor
    w_k: Tensor
    w_v: Tensor
    b_v: Tensor
    frame_table: Tensor


def softmax_gradients(
    call: QFormerCall, absorbed: Tensor, upstream: Tensor, lse: Tensor, delta: Tensor
) -> tuple[Weights, Weights, Tensor, Tensor]:
    """p and ds as they come, 1 / P and D / P: fp32 [B, R]. absorbed fp32 [sets, R, C], upstream [B, R, C]; lse, delta [B, R]."""
    x, rows = call.x, call.rows
    batch, keys, channels = x.shape
    block = key_block(keys, x.element_size())
    blocks = triton.cdiv(keys, block)
    config = scores_config(rows, block, x.element_size(), call.card.shared, operands=2)
    p, ds = x.new_empty(batch, rows, blocks * block), x.new_empty(batch, rows, blocks * block)
    totals = torch.empty(2, batch, blocks, rows, dtype=torch.float32, device=x.device)
    exponents = torch.empty_like(totals[0]) if x.dtype == torch.float16 else None
    a, g = operand_of(absorbed, x.dtype), operand_of(upstream, x.dtype)
    dots, updots = table_dots(call, absorbed), table_dots(call, upstream)
    with torch.cuda.device_of(x):
        qformer_backward_scores_kernel[(batch * blocks * triton.cdiv(rows, config.rows),)](
            a, g, keys_of(x, call.key_mask), dots, updots, lse, delta, p, ds, exponents, totals,
            keys, blocks, rows, a.hi.shape[0], batch, 0 if dots is None else dots.shape[2], call.frame_size, channels,
            SHIFT=SHIFTS[x.dtype], UPCAST=upcast(x), BM=config.rows, BN=block, BK=config.step,
            num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
    norm = inverse(totals[0].sum(1))
    off = totals[1].sum(1) * norm
    gain, unit = None, 1.0
    if exponents is not None:
        largest = exponents.amax(1)
        gain, unit = torch.exp2(exponents - largest[:, None]), torch.exp2(largest)
    return Weights(p, None, 1.0, block), Weights(ds, gain, unit, block), norm, off


def backward(whole: QFormerCall, grad_out: Tensor, out: Tensor, lse: Tensor, need: Gradients) -> Gradients:
    """Gradients by name, contiguous, in the inputs' dtype; empty where not needed."""
    batch, dtype, heads = whole.x.shape[0], whole.x.dtype, whole.heads
    half, shared = dtype != torch.float32, whole.query.shape[0] < batch
    given = (whole.query, whole.x, whole.w_k, whole.w_v, whole.b_v, whole.frame_table)
    # All but that of the keys are sums, kept in fp32.
    made = Gradients(*(
        whole.x.new_zeros(t.shape if wanted and t is not None else 0, dtype=dtype if t is whole.x else torch.float32)
        for t, wanted in zip(given, need, strict=True)
    ))  # fmt: skip
    bias = 0.0 if whole.b_v is None else whole.b_v.float()
    delta = (grad_out * (out - bias)).unflatten(2, (heads, -1)).sum(-1).flatten(1)
    log_sums = lse.transpose(1, 2).flatten(1)
    # Without a key there is nothing to subtract from: every score is -inf.
    some = log_sums > -torch.inf
    log_sums = torch.where(some, log_sums, 0.0)
    if need.b_v and whole.b_v is not None:
        made.b_v.copy_(torch.where(some[:, :1, None], grad_out, 0.0).sum((0, 1)))
    sums = need.query or need.w_k or need.w_v
    if not (sums or need.x or need.frame_table):
        return Gradients(*(t.to(dtype) for t in made))
    at_once = samples_at_once(whole, 2)
    for begin in range(0, batch, at_once):
        end = min(begin + at_once, batch)
        call, grad = whole.samples(begin, end), grad_out[begin:end]
        if begin == 0 or not shared:
            absorbed = absorb(call.query, call.w_k, heads, call.scale, half)
        upstream = absorb(grad, call.w_v, heads, 1.0, half)
        p, ds, norm, off = softmax_gradients(call, absorbed, upstream, log_sums[begin:end], delta[begin:end])
        p_frames = ds_frames = None
        if sums or need.frame_table:
            p_frames, ds_frames = weights_of_frames(call, p), weights_of_frames(call, ds)
        of_p, of_ds = norm * p.unit, norm * ds.unit
        if sums:
            p_sums = sums_by(call, p, p_frames)
        if need.w_v:
            outer(by_rows(grad, of_p), p_sums, made.w_v, heads, half)
        if need.query or need.w_k:
            # dA = ds_sums of_ds - p_sums of_p off: the factors of rows go where there is least to multiply
            ds_sums = sums_by(call, ds, ds_frames)
        if need.query:
            d_query = by_rows(project(ds_sums, call.w_k, heads, half), call.scale * of_ds)
            d_query -= by_rows(project(p_sums, call.w_k, heads, half), call.scale * of_p * off)
            if shared:
                made.query.add_(d_query.sum(0))
            else:
                made.query[begin:end] = d_query
        if need.w_k:
            query = call.query.expand(end - begin, -1, -1).float()
            outer(by_rows(query, call.scale * of_ds), ds_sums, made.w_k, heads, half)
            outer(by_rows(query, -call.scale * of_p * off), p_sums, made.w_k, heads, half)
        if need.x or need.frame_table:
            ds_rows = by_rows(absorbed.expand(end - begin, -1, -1), norm)
            p_rows = by_rows(upstream, norm) - by_rows(ds_rows, off)
            if need.x:
                gradient_of_keys(call, ds, p, ds_rows, p_rows, made.x[begin:end])
            if need.frame_table and ds_frames is not None and p_frames is not None:
                of_frames = made.frame_table.new_empty(end - begin, *made.frame_table.shape)
                gradient_of_keys(call, ds_frames, p_frames, ds_rows, p_rows, of_frames, exactly=True)
                made.frame_table.add_(of_frames.sum(0))
    return Gradients(*(t.to(dtype) for t in made))
