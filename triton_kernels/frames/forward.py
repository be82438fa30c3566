"""Forward over frames: context tokens, weights and pooled tokens of every frame, in one read of the patches from memory.

A frame of 256 x 1408 patches is 704 KiB in 16 bits, more than a multiprocessor holds, and the softmax needs all of it
before its first weight is known: every byte is used twice. What the ways of doing so move, in frames of patches, X:

- scores of all frames, then a second kernel: 2 X from memory, half of the bandwidth at most;
- one program a frame, two sweeps: 132 frames in flight are 91 MiB of a 50 MiB L2: nearly 2 X again;
- an online softmax in one sweep: M contexts a frame have to be kept until the last row maximum is known (the mean over
  queries does not pass the division by their sums), 2 M N C operations more and 180 KiB of sums a program;
- launches of as many frames as fit L2, scores and sweeps in turn: X, but 100 launches for an hour, of 8 us each;
- tickets, with slices that spin until the scores are there: X, and a hang if ever a program is started out of order;
- here: tiles of 64 tokens from as many programs as there are multiprocessors, a frame's sweep about as many frames
  later as that, 23 MiB (`frame_config`), and a slice that comes too early leaves its work to the frame's last tile
  (`scheduler`): X, scores [F, N, M] in fp32 written once, 4 M / 2 C of X (4.5 % at M = 32), one launch, no waiting.

The second sweep and the queries of a tile (M / 64 of X) come from L2: 2.5 X at M = 32.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.common.launch import upcast
from longreel.triton_kernels.common.pool_window import PoolWindow, cell_tile
from longreel.triton_kernels.frames.config import MOST_REGISTERS, frame_config
from longreel.triton_kernels.frames.launch import (
    card,
    frame_start,
    frame_tokens,
    frames_at_once,
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
from longreel.triton_kernels.frames.sums import average_cells, average_tokens, product_columns, sums_by_products
from torch import Tensor

PROMPT_TILE = 16
WEIGHT_GAIN = 2.0**14  # brings weights, which are at most 1, to where fp16 is most exact


class Outputs(NamedTuple):
    """context [P, F, C], content [F, cells, C] or None, weights fp32 [P, F, N] or [P, total], lse fp32 [P, F, M]."""

    context: Any
    content: Any
    weights: Any
    lse: Any


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=VARYING_BEYOND_ONE)
def frames_forward_kernel(
    query, patches, query_mask, cu_seqlens, table, scores, progress, out, window,
    first, lag, scale, prompts, frames, all_frames, weights_prompt, queries, tokens, channels,
    FUSED: tl.constexpr, COLUMNS: tl.constexpr, GAIN: tl.constexpr, UPCAST: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
    ROWS: tl.constexpr, CELLS: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """One program: one entry of the order of work. Fills `out`. progress int32 [F + F slices], zero at the start: tiles
    scored of a frame; arrivals at a slice. With `window` it pools; packed patches do not. BP: prompts at a time, 0: one."""
    slices = tl.cdiv(channels, BC)
    place, tile = scheduled(table, first + tl.program_id(0), frames, tl.cdiv(tokens, BT), slices, 1, lag)
    if place >= 0:
        frame = place.to(tl.int64)
        row, count = frame_tokens(cu_seqlens, frame, tokens)
        p_x = frame_start(patches, cu_seqlens, frame, row)
        begin = -1 - tile
        end = -tile
        if tile >= 0:
            begin = 0
            end = 0
            p_scores = scores + row * prompts * queries
            score_tile(
                query, patches, frame, p_x, p_scores, None, None, 0,
                scale, tile * BT, count, prompts, queries, channels, UPCAST, BT, BK, BQ, BQ,
            )  # fmt: skip
            if arrive(progress + frame, tl.maximum(tl.cdiv(count, BT), 1)):
                for prompt in range(0, prompts):
                    prompt_ = tl.cast(prompt, tl.int64)
                    softmax_mean(
                        p_scores + prompt_ * queries, query_mask, mask_start(query_mask, prompt_, frame),
                        out.weights + prompt_ * weights_prompt + row, out.lse + (prompt_ * all_frames + frame) * queries,
                        tl.abs(scale), prompts * queries, queries, count, 2048 // BQ, BQ,
                    )  # fmt: skip
                end = slices

        for slice in range(begin, end):
            if arrive(progress + frames + frame * slices + slice, 2):
                # [BC]
                o_c = slice * BC + tl.arange(0, BC)
                p_c = p_x + o_c.to(tl.int64) * patches.channel
                p_context = out.context + frame * channels
                p_content = out.content
                if window is not None:
                    p_content += frame * window.out_height * window.out_width * channels
                finite = False
                if COLUMNS:
                    finite = sums_by_products(
                        patches, p_x, p_content, out.weights + row, p_context, o_c, count, channels, window, GAIN, UPCAST,
                        COLUMNS, BC,
                    )  # fmt: skip
                if window is not None and not finite:
                    average_cells(
                        patches, p_c, p_content, out.weights + row, p_context, o_c, channels, window,
                        FUSED, BC, CELLS, SPAN,
                    )  # fmt: skip
                if BP:
                    for prompt in range(0, prompts, BP):
                        # [BP]
                        p = prompt + tl.arange(0, BP)
                        acc = weighted_sum(
                            patches, p_x, out.weights + row, 1, weights_prompt, o_c, p, count, prompts, channels, GAIN,
                            UPCAST, ROWS, BC, BP,
                        )  # fmt: skip
                        p_out = p_context + p.to(tl.int64)[None, :] * all_frames * channels + o_c[:, None]
                        tl.store(p_out, acc / GAIN, mask=(o_c < channels)[:, None] & (p < prompts)[None, :])
                elif not FUSED and not finite:
                    average_tokens(patches, p_c, out.weights + row, p_context, o_c, count, channels, ROWS, BC)


@triton.jit
def softmax_mean(
    p_scores, query_mask, p_mask, p_weights, p_lse, scale, rows, queries, count, BT: tl.constexpr, BQ: tl.constexpr
):
    """weights = the mean over valid queries of softmax over tokens; lse of every query, -inf where it is not valid."""
    # [BQ], [BT]
    q = tl.arange(0, BQ)
    n = tl.arange(0, BT)
    share = query_share(query_mask, p_mask, queries, BQ)
    for first in range(0, queries, BQ):
        m_q, m_valid, p_s, m_i = query_tile(p_scores, query_mask, p_mask, first + q, n, rows, queries, count, BT, BQ)
        l_i = tl.zeros([BQ], tl.float32)
        for t in range(0, count, BT):
            m_n = t + n < count
            l_i += tl.sum(exponentials(read_scores(p_s, t, rows, m_n, m_q), m_i, scale, m_n), axis=0)
        b_lse = tl.where(m_valid & (count > 0), m_i * scale + tl.log(l_i), float("-inf"))
        tl.store(p_lse + first + q, b_lse, mask=m_q)
        part = share / l_i

        for t in range(0, count, BT):
            m_n = t + n < count
            e = exponentials(read_scores(p_s, t, rows, m_n, m_q), m_i, scale, m_n)
            p = tl.where(m_valid[None, :], e * part[None, :], 0.0)
            add_weights(p_weights, tl.sum(p, axis=1), t + n, m_n, first)
        tl.debug_barrier()


def forward(
    query: Tensor, patches: Tensor, query_mask: Tensor | None, scale: float,
    window: PoolWindow | None = None, content: Tensor | None = None, cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """query [P, Q, M, C], patches [F, N, C] without prefix, or packed [total, C] with cu_seqlens [F + 1] -> context
    [P, F, C], weights [P, F, N] or [P, total], lse [P, F, M]. With `window`, fills content [F, cells, C] too."""
    prompts, _, queries, channels = query.shape
    packed = cu_seqlens is not None
    frames = patches.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    # of a frame, or of all of them
    tokens = patches.shape[-2]
    context = patches.new_empty(prompts, frames, channels)
    weights = patches.new_empty(prompts, *patches.shape[:-1], dtype=torch.float32)
    lse = patches.new_empty(prompts, frames, queries, dtype=torch.float32)
    rows = prompts * queries
    if frames * tokens * rows == 0:
        return context.zero_(), weights.zero_(), lse.fill_(float("-inf"))

    config = frame_config(tokens // frames if packed else tokens, channels, rows, patches.element_size(), card(patches))
    slices = config.slices(channels)
    cells, columns_ = (1, 1) if window is None else cell_tile(window.out_width, window.longest_x, config.slice_rows)
    several = prompts > 1
    fused = window is not None and not several and window.tiles_once(tokens)
    at_once = frames if packed else frames_at_once(frames, 4 * tokens * rows)
    scores = weights.new_empty((1 if packed else at_once) * tokens * rows)
    for begin in range(0, frames, at_once):
        end = min(begin + at_once, frames)
        order = schedule(config, end - begin, tokens, slices, cu_seqlens)
        progress = torch.zeros((end - begin) * (1 + slices), dtype=torch.int32, device=patches.device)
        for first, programs in order.launches:
            with torch.cuda.device_of(patches):
                frames_forward_kernel[(programs,)](
                    query_of(query, begin, end), patches_of(patches if packed else patches[begin:end]),
                    mask_of(query_mask, begin, end), cu_seqlens, order.table, scores, progress,
                    Outputs(
                        context[:, begin:], None if content is None else content[begin:],
                        weights if packed else weights[:, begin:], lse[:, begin:],
                    ), window,
                    first, order.lag, scale, prompts, end - begin, frames, weights.stride(0), queries, tokens, channels,
                    FUSED=fused, COLUMNS=0 if several else product_columns(patches, window, fused),
                    GAIN=WEIGHT_GAIN if patches.dtype == torch.float16 else 1.0, UPCAST=upcast(patches),
                    BT=config.token_tile, BK=config.channel_tile, BQ=config.query_tile, BC=config.slice,
                    BP=PROMPT_TILE if several else 0, ROWS=config.slice_rows, CELLS=cells, SPAN=columns_,
                    num_warps=config.num_warps, num_stages=config.num_stages, maxnreg=MOST_REGISTERS[patches.element_size()],
                    enable_fp_fusion=True,
                )  # fmt: skip
    return context, weights, lse
