"""Backward of the frame pass: one read of the patches for the queries' gradient, one write of the patches' own.

With w = mean_m p_m, p_m = softmax_n(scale q_m . x_n) and the gradient dw_n = grad_context . x_n + grad_weights_n:

    slope_mn   = a_m p_mn (dw_n - sum_n p_mn dw_n)        a_m = 1 / valid queries
    grad_q_m   = scale sum_n slope_mn x_n
    grad_x_n   = scale sum_m slope_mn q_m + w_n grad_context + its cells' share of grad_content

`frame_backward_kernel` scores the patches and dots them with grad_context in one read, makes a frame's slopes where the
forward pass makes its weights (`frame_work`), and sweeps the patches in L2 for grad_q. The row sums of exp are counted
again: with exp(s - lse), the rounding of an fp32 lse alone is over the fp32 budget where scores reach hundreds.
`patches_gradient_kernel` needs no patches: it reads the slopes, M / C of X, and writes grad_x.

Bytes, in frames of patches X, at N = 256, C = 1408, M = 32 and 16 bits: 1 read; scores and slopes 3 M / C = 0.07 written;
one query set for all frames: a sum [M, C] in fp32 of every 4 frames, written and read, 0.06 each; grad_x 1 written.
"""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.frame_config import frame_config
from longreel.triton_kernels.frame_pass import (
    card,
    frames_at_once,
    frames_of,
    mask_strides,
    order_of_work,
    query_strides,
)
from longreel.triton_kernels.frame_scores import (
    add_weights,
    exponentials,
    query_tile,
    read_scores,
    row_share,
    score_tile,
    sweep,
)
from longreel.triton_kernels.frame_work import VARYING, arrive, frame_start, frame_tokens, work_item
from longreel.triton_kernels.patches_gradient import patches_gradient
from longreel.triton_kernels.window import Window
from torch import Tensor

SUM_BLOCK = 256


@triton.jit(do_not_specialize=VARYING)
def frame_backward_kernel(
    grad_context, grad_weights, query, patches, query_mask, cu_seqlens, work,
    scores, dots, slopes, factors, weights, progress, grad_query,
    q_prompt, q_frame, q_query, q_channel, x_frame, x_token, x_channel, m_prompt, m_frame, m_query,
    first, lag, scale, prompts, frames, all_frames, g_prompt, w_prompt, queries, tokens, channels, group,
    SWEEP: tl.constexpr, SHARED: tl.constexpr, UPCAST: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BQ: tl.constexpr, BG: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One program: one entry of the order of work. progress int32 [F + groups + groups slices], zero at the start: tiles
    scored of a frame; frames of a group with slopes; arrivals at a slice. SWEEP: grad_query is wanted; SHARED: as the
    groups' sums [groups, P M, C], which `sum_groups_kernel` adds."""
    slices = tl.cdiv(channels, BC) if SWEEP else 0
    rows = prompts * queries
    groups = tl.cdiv(frames, group)
    place, tile = work_item(work, first + tl.program_id(0), frames, tl.cdiv(tokens, BT), slices, group, lag)
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
            p_x = frame_start(patches, cu_seqlens, frame, row, x_frame, x_token)
            p_g = None
            if grad_context is not None:
                p_g = grad_context + frame * channels
            p_scores = scores + row * rows
            p_dots = dots + row * prompts
            score_tile(
                query + frame * q_frame, p_x, p_scores, p_g, p_dots,
                q_prompt, q_query, q_channel, x_token, x_channel, tl.cast(all_frames, tl.int64) * channels,
                scale, tile * BT, count, prompts, queries, channels, UPCAST, BT, BK, BQ, BG,
            )  # fmt: skip
            if arrive(progress + frame, tl.maximum(tl.cdiv(count, BT), 1)):
                gain = slope_gain(
                    p_dots, grad_weights, row, g_prompt, prompts, count,
                    grad_context is not None, slopes.dtype.element_ty == tl.float16,
                )  # fmt: skip
                tl.store(factors + frame, scale / gain)
                for prompt in range(0, prompts):
                    prompt_ = tl.cast(prompt, tl.int64)
                    p_w = None
                    if weights is not None:
                        p_w = weights + prompt_ * w_prompt + row
                    row_slopes(
                        p_scores + prompt_ * queries, slopes + row * rows + prompt_ * queries, query_mask,
                        prompt_ * m_prompt + frame * m_frame, p_dots + prompt_, grad_weights, prompt_ * g_prompt + row,
                        p_w, m_query, tl.abs(scale), gain, rows, prompts, queries, count,
                        grad_context is not None, 2048 // BQ, BQ,
                    )  # fmt: skip
                if SWEEP and arrive(progress + frames + swept, tl.minimum(frames - swept * group, group)):
                    end = slices

        if SWEEP:
            for slice in range(begin, end):
                if arrive(progress + frames + groups + swept.to(tl.int64) * slices + slice, 2):
                    query_slice(
                        patches, cu_seqlens, slopes, factors, grad_query, swept, slice * BC + tl.arange(0, BC),
                        x_frame, x_token, x_channel, prompts, queries, frames, all_frames, tokens, channels, group,
                        SHARED, UPCAST, BN, BC, BQ,
                    )  # fmt: skip


@triton.jit
def slope_of_weights(dots, grad_weights, at, n, m_n, prompts, DOTS: tl.constexpr):
    """[BT] dw of tokens n: grad_context . x_n, which another program wrote, and grad_weights."""
    dw = tl.zeros(n.shape, tl.float32)
    if DOTS:
        dw += tl.load(dots + n.to(tl.int64) * prompts, mask=m_n, other=0.0, cache_modifier=".cg")
    if grad_weights is not None:
        dw += tl.load(grad_weights + at + n, mask=m_n, other=0.0)
    return dw


@triton.jit
def slope_gain(dots, grad_weights, row, g_prompt, prompts, count, DOTS: tl.constexpr, HALF: tl.constexpr):
    """A power of two that brings a frame's slopes, at most 2 max |dw|, to the upper end of fp16; 1 for other dtypes."""
    gain = 1.0
    if HALF:
        largest = 0.0
        for prompt in range(0, prompts):
            prompt_ = tl.cast(prompt, tl.int64)
            for t in range(0, count, 1024):
                n = t + tl.arange(0, 1024)
                dw = slope_of_weights(
                    dots + prompt_, grad_weights, prompt_ * g_prompt + row, n, n < count, prompts, DOTS
                )
                largest = tl.maximum(largest, tl.max(tl.abs(dw), axis=0))
        gain = tl.where(largest > 0, tl.exp2(tl.minimum(14.0 - tl.ceil(tl.log2(largest)), 100.0)), 1.0)
    return gain


@triton.jit
def row_slopes(
    scores, slopes, query_mask, mask_row, dots, grad_weights, at, weights, m_query, scale, gain,
    rows, prompts, queries, count, DOTS: tl.constexpr, BT: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """slopes [n, m] = gain a_m p_mn (dw_n - sum_n p_mn dw_n) of one prompt; and its weights, where they are wanted."""
    # [BQ], [BT]
    q = tl.arange(0, BQ)
    n = tl.arange(0, BT)
    share = row_share(query_mask, mask_row, queries, m_query, BQ)
    for first in range(0, queries, BQ):
        m_q, m_valid, p_s, top = query_tile(
            scores, query_mask, mask_row, first + q, n, rows, queries, count, m_query, BT, BQ
        )
        p_slopes = slopes + n.to(tl.int64)[:, None] * rows + (first + q)[None, :]
        total = tl.zeros([BQ], tl.float32)
        along = tl.zeros([BQ], tl.float32)
        for t in range(0, count, BT):
            m_n = t + n < count
            e = exponentials(read_scores(p_s, t, rows, m_n, m_q), top, scale, m_n)
            dw = slope_of_weights(dots, grad_weights, at, t + n, m_n, prompts, DOTS)
            total += tl.sum(e, axis=0)
            along += tl.sum(e * dw[:, None], axis=0)
        part = tl.where(m_valid, share / total, 0.0)
        along = along / total

        for t in range(0, count, BT):
            m_n = t + n < count
            e = exponentials(read_scores(p_s, t, rows, m_n, m_q), top, scale, m_n)
            dw = slope_of_weights(dots, grad_weights, at, t + n, m_n, prompts, DOTS)
            p = e * part[None, :]
            slope = p * (dw[:, None] - along[None, :]) * gain
            tl.store(p_slopes + tl.cast(t, tl.int64) * rows, slope, mask=m_n[:, None] & m_q[None, :])
            if weights is not None:
                add_weights(weights, tl.sum(p, axis=1), t + n, m_n, first)
        tl.debug_barrier()


@triton.jit
def query_slice(
    patches, cu_seqlens, slopes, factors, grad_query, swept, c, x_frame, x_token, x_channel,
    prompts, queries, frames, all_frames, tokens, channels, group,
    SHARED: tl.constexpr, UPCAST: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """scale sum_n slope_mn x_n for channels c, summed over the frames of a group in their order."""
    rows = prompts * queries
    for first in range(0, rows, BQ):
        # [BQ]
        r = first + tl.arange(0, BQ)
        # [BC, BQ]
        total = tl.zeros([BC, BQ], tl.float32)
        for f in range(swept * group, tl.minimum(frames, (swept + 1) * group)):
            frame = tl.cast(f, tl.int64)
            row, count = frame_tokens(cu_seqlens, frame, tokens)
            p_x = frame_start(patches, cu_seqlens, frame, row, x_frame, x_token)
            factor = tl.load(factors + frame, cache_modifier=".cg")
            total += factor * sweep(
                p_x, slopes + row * rows, x_token, x_channel, rows, 1, c, r, count, rows, channels, 1.0,
                UPCAST, BN, BC, BQ,
            )  # fmt: skip
        if SHARED:
            place = swept.to(tl.int64) * rows + r
        else:
            place = ((r // queries).to(tl.int64) * all_frames + swept) * queries + r % queries
        tl.store(
            grad_query + place[None, :] * channels + c[:, None],
            total,
            mask=(c < channels)[:, None] & (r < rows)[None, :],
        )


@triton.jit(do_not_specialize=VARYING)
def sum_groups_kernel(sums, out, groups, size, BLOCK: tl.constexpr):
    """out[i] = the sum of sums [groups, size] in the order of the groups; what a long sum drops is carried along."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    lost = tl.zeros([BLOCK], tl.float32)
    for group in range(0, groups):
        term = tl.load(sums + tl.cast(group, tl.int64) * size + i, mask=i < size, other=0.0) - lost
        longer = total + term
        lost = (longer - total) - term
        total = longer
    tl.store(out + i, total, mask=i < size)


def frame_backward(
    grad_context: Tensor | None, grad_weights: Tensor | None, grad_content: Tensor | None,
    query: Tensor, patches: Tensor, query_mask: Tensor | None, scale: float,
    need_query: int, grad_patches: Tensor | None, view: Window | None = None, cu_seqlens: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The queries' gradient (empty where it is not asked for), and `grad_patches` filled where it is given.

    Shapes as in `frame_pass`; grad_context [P, F, C], grad_weights fp32 [P, F, N] or [P, total], of which one is given,
    grad_content [F, cells, C] with `view`, any strides. grad_patches is dense but for its frames' stride.
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
    slopes, factors = patches.new_empty(entries * rows), patches.new_empty(at_once, dtype=torch.float32)
    weights = None if grad_patches is None or grad_context is None else scores.new_empty(prompts * entries)
    if shared:
        # the first is what earlier launches left
        sums = scores.new_empty(1 + triton.cdiv(at_once, config.group), rows * channels)
        sums[0].zero_()
    for begin in range(0, frames, at_once):
        end = min(begin + at_once, frames)
        work = order_of_work(config, end - begin, tokens, slices, cu_seqlens)
        groups = -(-(end - begin) // config.group)
        progress = torch.zeros(end - begin + groups * (1 + slices), dtype=torch.int32, device=patches.device)
        given = None if grad_context is None else grad_context[:, begin:]
        at = None if grad_weights is None else grad_weights if packed else grad_weights[:, begin:]
        x, mask = patches if packed else patches[begin:end], frames_of(query_mask, 1, begin, end)
        q = frames_of(query, 1, begin, end)
        if mask is not None:
            # Rows that do not count may hold NaN, which a slope of 0 would not remove.
            q = q.masked_fill(~mask[..., None], 0)
        grad_q = sums[1:] if shared else grad_query[:, begin:end] if need_query else grad_query
        with torch.cuda.device_of(patches):
            for first, programs in work.launches:
                frame_backward_kernel[(programs,)](
                    given, at, q, x, None if mask is None else mask.view(torch.uint8), cu_seqlens, work.table,
                    scores, dots, slopes, factors, weights, progress, grad_q,
                    *query_strides(q), *((0,) if packed else ()), *patches.stride(), *mask_strides(query_mask),
                    first, work.lag, scale, prompts, end - begin, frames, 0 if at is None else at.stride(0),
                    entries, queries, tokens, channels, config.group,
                    SWEEP=bool(need_query), SHARED=shared, UPCAST=not patches.is_cuda and patches.dtype == torch.bfloat16,
                    BT=config.token_tile, BK=config.channel_tile, BQ=config.query_tile, BG=config.grad_tile,
                    BC=config.slice, BN=config.slice_rows,
                    num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
                )  # fmt: skip
            if shared:
                out = grad_query if end == frames else sums
                sum_groups_kernel[(triton.cdiv(rows * channels, SUM_BLOCK),)](
                    sums, out, 1 + groups, rows * channels, BLOCK=SUM_BLOCK, num_warps=4, enable_fp_fusion=True
                )
            if grad_patches is not None:
                content = None if grad_content is None else grad_content[begin:end]
                out = grad_patches if packed else grad_patches[begin:end]
                patches_gradient(slopes, factors, weights, q, given, content, cu_seqlens, out, view, frames)
    return grad_query
