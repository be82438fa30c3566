"""Backward over frames: one read of the patches for the queries' gradient, one write of the patches' own.

With w = mean_m p_m, p_m = softmax_n(scale q_m . x_n) and the gradient dw_n = dcontext . x_n + dweights_n:

    ds_mn = a_m p_mn (dw_n - sum_n p_mn dw_n)        a_m = 1 / valid queries
    dq_m  = scale sum_n ds_mn x_n
    dx_n  = scale sum_m ds_mn q_m + w_n dcontext + its cells' share of dcontent

`frames_backward_kernel` scores the patches and dots them with dcontext in one read, makes a frame's ds where the
forward makes its weights (`scheduler`), and sweeps the patches in L2 for dq. The sums of exp are counted
again: with exp(s - lse), the rounding of an fp32 lse alone is over the fp32 budget where scores reach hundreds.
`frames_backward_patches_kernel` needs no patches: it reads ds, M / C of X, and writes dx.

Bytes, in frames of patches X, at N = 256, C = 1408, M = 32 and 16 bits: 1 read; scores and ds 3 M / C = 0.07 written;
one query set for all frames: a sum [M, C] in fp32 of every 4 frames, written and read, 0.06 each; dx 1 written.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.common.launch import upcast
from longreel.triton_kernels.common.pool_window import PoolWindow
from longreel.triton_kernels.frames.backward_patches import backward_patches
from longreel.triton_kernels.frames.config import MOST_REGISTERS, frame_config
from longreel.triton_kernels.frames.launch import (
    card,
    frame_start,
    frame_tokens,
    frames_at_once,
    frames_of,
    mask_of,
    mask_start,
    patches_of,
    query_of,
    schedule,
)
from longreel.triton_kernels.frames.scheduler import VARYING, VARYING_BEYOND_ONE, arrive, scheduled
from longreel.triton_kernels.frames.scores import (
    add_weights,
    exponentials,
    query_share,
    query_tile,
    read_scores,
    score_tile,
    weighted_sum,
)
from torch import Tensor

SUM_BLOCK = 256


class Work(NamedTuple):
    """What programs leave for one another: fp32 scores [tokens, P M] and dots [tokens, P], ds [tokens, P M], which stands for
    ds_scale [F] times itself, weights [P, tokens] or None; and progress int32 [F + groups + groups slices], zero at the start:
    tiles scored of a frame, frames of a group with ds, arrivals at a slice."""

    scores: Any
    dots: Any
    ds: Any
    ds_scale: Any
    weights: Any
    progress: Any


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=VARYING_BEYOND_ONE)
def frames_backward_kernel(
    dcontext, dweights, query, patches, query_mask, cu_seqlens, table, work, dq,
    first, lag, scale, prompts, frames, all_frames, dweights_prompt, weights_prompt, queries, tokens, channels, group,
    SWEEP: tl.constexpr, SHARED: tl.constexpr, UPCAST: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BQ: tl.constexpr, BG: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One program: one entry of the order of work. SWEEP: dq is wanted; SHARED: as the groups' sums [groups, P M, C], which
    `sum_groups_kernel` adds."""
    slices = tl.cdiv(channels, BC) if SWEEP else 0
    rows = prompts * queries
    groups = tl.cdiv(frames, group)
    place, tile = scheduled(table, first + tl.program_id(0), frames, tl.cdiv(tokens, BT), slices, group, lag)
    if place >= 0:
        swept = place
        begin = -1 - tile
        end = -tile
        if tile >= 0:
            swept = place // group
            begin = 0
            end = 0
            frame = place.to(tl.int64)
            row, count = frame_tokens(cu_seqlens, frame, tokens)
            p_x = frame_start(patches, cu_seqlens, frame, row)
            p_dcontext = None
            if dcontext is not None:
                p_dcontext = dcontext + frame * channels
            p_scores = work.scores + row * rows
            p_dots = work.dots + row * prompts
            score_tile(
                query, patches, frame, p_x, p_scores, p_dcontext, p_dots, tl.cast(all_frames, tl.int64) * channels,
                scale, tile * BT, count, prompts, queries, channels, UPCAST, BT, BK, BQ, BG,
            )  # fmt: skip
            if arrive(work.progress + frame, tl.maximum(tl.cdiv(count, BT), 1)):
                gain = ds_gain(
                    p_dots, dweights, row, dweights_prompt, prompts, count,
                    dcontext is not None, work.ds.dtype.element_ty == tl.float16,
                )  # fmt: skip
                tl.store(work.ds_scale + frame, scale / gain)
                for prompt in range(0, prompts):
                    prompt_ = tl.cast(prompt, tl.int64)
                    p_weights = None
                    if work.weights is not None:
                        p_weights = work.weights + prompt_ * weights_prompt + row
                    softmax_mean_backward(
                        p_scores + prompt_ * queries, work.ds + row * rows + prompt_ * queries, query_mask,
                        mask_start(query_mask, prompt_, frame), p_dots + prompt_, dweights, prompt_ * dweights_prompt + row,
                        p_weights, tl.abs(scale), gain, rows, prompts, queries, count,
                        dcontext is not None, 2048 // BQ, BQ,
                    )  # fmt: skip
                if SWEEP and arrive(work.progress + frames + swept, tl.minimum(frames - swept * group, group)):
                    end = slices

        if SWEEP:
            for slice in range(begin, end):
                if arrive(work.progress + frames + groups + swept.to(tl.int64) * slices + slice, 2):
                    dq_slice(
                        patches, cu_seqlens, work.ds, work.ds_scale, dq, swept, slice * BC + tl.arange(0, BC),
                        prompts, queries, frames, all_frames, tokens, channels, group,
                        SHARED, UPCAST, BN, BC, BQ,
                    )  # fmt: skip


@triton.jit
def dw_of(p_dots, dweights, at, n, m_n, prompts, DOTS: tl.constexpr):
    """[BT] dw of tokens n: dcontext . x_n, which another program wrote, and dweights."""
    dw = tl.zeros(n.shape, tl.float32)
    if DOTS:
        dw += tl.load(p_dots + n.to(tl.int64) * prompts, mask=m_n, other=0.0, cache_modifier=".cg")
    if dweights is not None:
        dw += tl.load(dweights + at + n, mask=m_n, other=0.0)
    return dw


@triton.jit
def ds_gain(p_dots, dweights, row, dweights_prompt, prompts, count, DOTS: tl.constexpr, HALF: tl.constexpr):
    """A power of two that brings a frame's ds, at most 2 max |dw|, to the upper end of fp16; 1 for other dtypes."""
    gain = 1.0
    if HALF:
        largest = 0.0
        for prompt in range(0, prompts):
            prompt_ = tl.cast(prompt, tl.int64)
            for t in range(0, count, 1024):
                n = t + tl.arange(0, 1024)
                dw = dw_of(p_dots + prompt_, dweights, prompt_ * dweights_prompt + row, n, n < count, prompts, DOTS)
                largest = tl.maximum(largest, tl.max(tl.abs(dw), axis=0))
        gain = tl.where(largest > 0, tl.exp2(tl.minimum(14.0 - tl.ceil(tl.log2(largest)), 100.0)), 1.0)
    return gain


@triton.jit
def softmax_mean_backward(
    p_scores, p_ds, query_mask, p_mask, p_dots, dweights, at, p_weights, scale, gain,
    rows, prompts, queries, count, DOTS: tl.constexpr, BT: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """ds [n, m] = gain a_m p_mn (dw_n - sum_n p_mn dw_n) of one prompt; and its weights, where they are wanted."""
    # [BQ], [BT]
    q = tl.arange(0, BQ)
    n = tl.arange(0, BT)
    share = query_share(query_mask, p_mask, queries, BQ)
    for first in range(0, queries, BQ):
        m_q, m_valid, p_s, m_i = query_tile(p_scores, query_mask, p_mask, first + q, n, rows, queries, count, BT, BQ)
        p_out = p_ds + n.to(tl.int64)[:, None] * rows + (first + q)[None, :]
        l_i = tl.zeros([BQ], tl.float32)
        moment = tl.zeros([BQ], tl.float32)
        for t in range(0, count, BT):
            m_n = t + n < count
            e = exponentials(read_scores(p_s, t, rows, m_n, m_q), m_i, scale, m_n)
            dw = dw_of(p_dots, dweights, at, t + n, m_n, prompts, DOTS)
            l_i += tl.sum(e, axis=0)
            moment += tl.sum(e * dw[:, None], axis=0)
        part = tl.where(m_valid, share / l_i, 0.0)
        mean = moment / l_i

        for t in range(0, count, BT):
            m_n = t + n < count
            e = exponentials(read_scores(p_s, t, rows, m_n, m_q), m_i, scale, m_n)
            dw = dw_of(p_dots, dweights, at, t + n, m_n, prompts, DOTS)
            p = e * part[None, :]
            b_ds = p * (dw[:, None] - mean[None, :]) * gain
            tl.store(p_out + tl.cast(t, tl.int64) * rows, b_ds, mask=m_n[:, None] & m_q[None, :])
            if p_weights is not None:
                add_weights(p_weights, tl.sum(p, axis=1), t + n, m_n, first)
        tl.debug_barrier()


@triton.jit
def dq_slice(
    patches, cu_seqlens, ds, ds_scale, dq, swept, o_c,
    prompts, queries, frames, all_frames, tokens, channels, group,
    SHARED: tl.constexpr, UPCAST: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """scale sum_n ds_mn x_n for channels o_c, summed over the frames of a group in their order."""
    rows = prompts * queries
    for first in range(0, rows, BQ):
        # [BQ]
        r = first + tl.arange(0, BQ)
        # [BC, BQ]
        acc = tl.zeros([BC, BQ], tl.float32)
        for f in range(swept * group, tl.minimum(frames, (swept + 1) * group)):
            frame = tl.cast(f, tl.int64)
            row, count = frame_tokens(cu_seqlens, frame, tokens)
            p_x = frame_start(patches, cu_seqlens, frame, row)
            factor = tl.load(ds_scale + frame, cache_modifier=".cg")
            acc += factor * weighted_sum(
                patches, p_x, ds + row * rows, rows, 1, o_c, r, count, rows, channels, 1.0, UPCAST, BN, BC, BQ
            )
        if SHARED:
            place = swept.to(tl.int64) * rows + r
        else:
            place = ((r // queries).to(tl.int64) * all_frames + swept) * queries + r % queries
        p_dq = dq + place[None, :] * channels + o_c[:, None]
        tl.store(p_dq, acc, mask=(o_c < channels)[:, None] & (r < rows)[None, :])


@triton.jit(do_not_specialize=VARYING)
def sum_groups_kernel(sums, out, groups, size, BLOCK: tl.constexpr):
    """out[i] = the sum of sums [groups, size] in the order of the groups; what a long sum drops is carried along."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], tl.float32)
    lost = tl.zeros([BLOCK], tl.float32)
    for group in range(0, groups):
        term = tl.load(sums + tl.cast(group, tl.int64) * size + i, mask=i < size, other=0.0) - lost
        longer = acc + term
        lost = (longer - acc) - term
        acc = longer
    tl.store(out + i, acc, mask=i < size)


def backward(
    grad_context: Tensor | None, grad_weights: Tensor | None, grad_content: Tensor | None,
    query: Tensor, patches: Tensor, query_mask: Tensor | None, scale: float,
    need_query: int, grad_patches: Tensor | None, window: PoolWindow | None = None, cu_seqlens: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The queries' gradient (empty where it is not asked for), and `grad_patches` filled where it is given.

    Shapes as in `forward`; grad_context [P, F, C], grad_weights fp32 [P, F, N] or [P, total], of which one is given,
    grad_content [F, cells, C] with `window`, any strides. grad_patches is dense but for its frames' stride.
    """
    prompts, sets, queries, channels = query.shape
    frames = patches.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    tokens, rows = patches.shape[-2], prompts * queries
    typical = tokens if cu_seqlens is None else tokens // frames
    size, packed, shared = patches.element_size(), cu_seqlens is not None, bool(need_query) and sets == 1
    config = frame_config(typical, channels, rows, size, card(patches), backward=True, shared=shared)
    slices = config.slices(channels) if need_query else 0
    grad_context = None if grad_context is None else grad_context.contiguous()
    grad_weights = None if grad_weights is None else grad_weights.contiguous()
    grad_query = query.new_empty(query.shape if need_query else (0,))

    frame_bytes = tokens * ((4 + size) * rows + 8 * prompts) + shared * rows * channels * 4 // config.group
    at_once = frames if packed else frames_at_once(frames, frame_bytes, config.group)
    entries = tokens if packed else at_once * tokens
    scores, dots = (patches.new_empty(entries * columns, dtype=torch.float32) for columns in (rows, prompts))
    ds, ds_scale = patches.new_empty(entries * rows), patches.new_empty(at_once, dtype=torch.float32)
    weights = None if grad_patches is None or grad_context is None else scores.new_empty(prompts * entries)
    if shared:
        # the first is what earlier launches left
        sums = scores.new_empty(1 + triton.cdiv(at_once, config.group), rows * channels)
        sums[0].zero_()
    for begin in range(0, frames, at_once):
        end = min(begin + at_once, frames)
        order = schedule(config, end - begin, tokens, slices, cu_seqlens)
        groups = -(-(end - begin) // config.group)
        progress = torch.zeros(end - begin + groups * (1 + slices), dtype=torch.int32, device=patches.device)
        given = None if grad_context is None else grad_context[:, begin:]
        at = None if grad_weights is None else grad_weights if packed else grad_weights[:, begin:]
        q = frames_of(query, 1, begin, end)
        if query_mask is not None:
            # Queries that do not take part may hold NaN, which a ds of 0 would not remove.
            q = q.masked_fill(~frames_of(query_mask, 1, begin, end)[..., None], 0)
        grad_q = sums[1:] if shared else grad_query[:, begin:end] if need_query else grad_query
        with torch.cuda.device_of(patches):
            for first, programs in order.launches:
                frames_backward_kernel[(programs,)](
                    given, at, query_of(q, 0, q.shape[1]), patches_of(patches if packed else patches[begin:end]),
                    mask_of(query_mask, begin, end), cu_seqlens, order.table,
                    Work(scores, dots, ds, ds_scale, weights, progress), grad_q,
                    first, order.lag, scale, prompts, end - begin, frames, 0 if at is None else at.stride(0),
                    entries, queries, tokens, channels, config.group,
                    SWEEP=bool(need_query), SHARED=shared, UPCAST=upcast(patches),
                    BT=config.token_tile, BK=config.channel_tile, BQ=config.query_tile, BG=config.grad_tile,
                    BC=config.slice, BN=config.slice_rows, num_warps=config.num_warps, num_stages=config.num_stages,
                    maxnreg=MOST_REGISTERS[patches.element_size()], enable_fp_fusion=True,
                )  # fmt: skip
            if shared:
                out = grad_query if end == frames else sums
                sum_groups_kernel[(triton.cdiv(rows * channels, SUM_BLOCK),)](
                    sums, out, 1 + groups, rows * channels, BLOCK=SUM_BLOCK, num_warps=4, enable_fp_fusion=True
                )
            if grad_patches is not None:
                content = None if grad_content is None else grad_content[begin:end]
                out = grad_patches if packed else grad_patches[begin:end]
                backward_patches(ds, ds_scale, weights, q, given, content, cu_seqlens, out, window, frames)
    return grad_query
