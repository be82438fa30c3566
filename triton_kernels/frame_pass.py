"""The frame pass: context tokens, weights and pooled tokens of every frame, in one read of the patches from memory.

A frame of 256 x 1408 patches is 704 KiB in 16 bits, more than a multiprocessor holds, and the softmax has to see all of it
before its first weight is known: every byte is used twice. What the ways of doing so move, in frames of patches, X:

- scores of all frames, then a second kernel: 2 X from memory, half of the bandwidth at most;
- one program a frame, two sweeps: 132 frames in flight are 91 MiB of a 50 MiB L2: nearly 2 X again;
- an online softmax in one sweep: M contexts a frame have to be kept until the last row maximum is known (the mean over
  queries does not pass the division by their sums), 2 M N C operations more and 180 KiB of sums a program;
- launches of as many frames as fit L2, scores and sweeps in turn: X, but 100 launches for an hour, of 8 us each;
- tickets, with slices that spin until the scores are there: X, and a hang if ever a program is started out of order;
- here: tiles of 64 tokens from as many programs as there are multiprocessors, a frame's sweep about as many frames
  later as that, 23 MiB (`frame_config`), and a slice that comes too early leaves its work to the frame's last tile
  (`frame_work`): X, scores [F, N, M] in fp32 written once, 4 M / 2 C of X (4.5 % at M = 32), one launch, no waiting.

The second sweep and the queries of a tile (M / 64 of X) come from L2: 2.5 X at M = 32.
"""

import functools

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.adaptive_pool import tile_shape
from longreel.triton_kernels.frame_config import PORTABLE_SHARED, Card, FrameConfig, frame_config
from longreel.triton_kernels.frame_scores import (
    add_weights,
    exponentials,
    query_tile,
    read_scores,
    row_share,
    score_tile,
    sweep,
)
from longreel.triton_kernels.frame_work import (
    VARYING,
    Work,
    arrive,
    frame_start,
    frame_tokens,
    frame_work,
    packed_work,
    work_item,
)
from longreel.triton_kernels.window import Window, columns, span
from torch import Tensor

INTERPRETED = Card(1 << 20, PORTABLE_SHARED, 2, wgmma=False)
WORKSPACE = (
    512 << 20
)  # bytes of a launch; an hour of 256 patches and 32 queries takes 113 MiB forward, 330 MiB backward
PROMPT_TILE = 16
WEIGHT_GAIN = 2.0**14  # brings weights, which are at most 1, to where fp16 is most exact


@triton.jit(do_not_specialize=VARYING)
def frame_pass_kernel(
    query, patches, query_mask, cu_seqlens, work, scores, progress, context, content, weights, lse,
    q_prompt, q_frame, q_query, q_channel, x_frame, x_token, x_channel, m_prompt, m_frame, m_query,
    first, lag, scale, prompts, frames, all_frames, w_prompt, queries, tokens, channels,
    pitch, out_height, out_width, y_size, y_out, x_size, x_out, longest_x,
    POOL: tl.constexpr, FUSED: tl.constexpr, PROMPTS: tl.constexpr, GAIN: tl.constexpr, UPCAST: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
    ROWS: tl.constexpr, CELLS: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """One program: one entry of the order of work. progress int32 [F + F slices], zero at the start: tiles scored of a
    frame; arrivals at a slice. PROMPTS: there are several. Slices of packed patches do not pool."""
    slices = tl.cdiv(channels, BC)
    place, tile = work_item(work, first + tl.program_id(0), frames, tl.cdiv(tokens, BT), slices, 1, lag)
    if place >= 0:
        frame = place.to(tl.int64)
        row, count = frame_tokens(cu_seqlens, frame, tokens)
        p_x = frame_start(patches, cu_seqlens, frame, row, x_frame, x_token)
        begin = -1 - tile
        end = -tile
        if tile >= 0:
            begin = 0
            end = 0
            p_scores = scores + row * prompts * queries
            score_tile(
                query + frame * q_frame, p_x, p_scores, None, None, q_prompt, q_query, q_channel, x_token, x_channel, 0,
                scale, tile * BT, count, prompts, queries, channels, UPCAST, BT, BK, BQ, BQ,
            )  # fmt: skip
            if arrive(progress + frame, tl.maximum(tl.cdiv(count, BT), 1)):
                for prompt in range(0, prompts):
                    prompt_ = tl.cast(prompt, tl.int64)
                    average_rows(
                        p_scores + prompt_ * queries, query_mask, prompt_ * m_prompt + frame * m_frame,
                        weights + prompt_ * w_prompt + row, lse + (prompt_ * all_frames + frame) * queries,
                        m_query, tl.abs(scale), prompts * queries, queries, count, 2048 // BQ, BQ,
                    )  # fmt: skip
                end = slices

        for slice in range(begin, end):
            if arrive(progress + frames + frame * slices + slice, 2):
                # [BC]
                c = slice * BC + tl.arange(0, BC)
                p_c = p_x + c.to(tl.int64) * x_channel
                p_context = context + frame * channels
                if POOL:
                    average_cells(
                        p_c, content + frame * out_height * out_width * channels, weights + row, p_context, c, x_token,
                        channels, pitch, out_height, out_width, y_size, y_out, x_size, x_out, longest_x,
                        FUSED, BC, CELLS, SPAN,
                    )  # fmt: skip
                if PROMPTS:
                    for prompt in range(0, prompts, BP):
                        # [BP]
                        p = prompt + tl.arange(0, BP)
                        total = sweep(
                            p_x, weights + row, x_token, x_channel, 1, w_prompt, c, p, count, prompts, channels, GAIN,
                            UPCAST, ROWS, BC, BP,
                        )  # fmt: skip
                        p_out = p_context + p.to(tl.int64)[None, :] * all_frames * channels + c[:, None]
                        tl.store(p_out, total / GAIN, mask=(c < channels)[:, None] & (p < prompts)[None, :])
                elif not FUSED:
                    average_tokens(p_c, weights + row, p_context, c, x_token, count, channels, ROWS, BC)


@triton.jit
def average_rows(
    scores, query_mask, mask_row, weights, lse, m_query, scale, rows, queries, count,
    BT: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """weights = the mean over valid queries of softmax over tokens; lse of every query, -inf where it is not valid."""
    # [BQ], [BT]
    q = tl.arange(0, BQ)
    n = tl.arange(0, BT)
    share = row_share(query_mask, mask_row, queries, m_query, BQ)
    for first in range(0, queries, BQ):
        m_q, m_valid, p_s, top = query_tile(
            scores, query_mask, mask_row, first + q, n, rows, queries, count, m_query, BT, BQ
        )
        total = tl.zeros([BQ], tl.float32)
        for t in range(0, count, BT):
            m_n = t + n < count
            total += tl.sum(exponentials(read_scores(p_s, t, rows, m_n, m_q), top, scale, m_n), axis=0)
        log_sum = tl.where(m_valid & (count > 0), top * scale + tl.log(total), float("-inf"))
        tl.store(lse + first + q, log_sum, mask=m_q)
        part = share / total

        for t in range(0, count, BT):
            m_n = t + n < count
            e = exponentials(read_scores(p_s, t, rows, m_n, m_q), top, scale, m_n)
            p = tl.where(m_valid[None, :], e * part[None, :], 0.0)
            add_weights(weights, tl.sum(p, axis=1), t + n, m_n, first)
        tl.debug_barrier()


@triton.jit
def average_tokens(patches, weights, context, c, x_token, count, channels, ROWS: tl.constexpr, BC: tl.constexpr):
    """context = sum over tokens of weights[n] x_n, for channels c; `patches` [BC] points at them in token 0."""
    m_c = c < channels
    # [ROWS, BC]
    total = tl.zeros([ROWS, BC], tl.float32)
    for t in range(0, count, ROWS):
        n = t + tl.arange(0, ROWS)
        m_n = n < count
        w = tl.load(weights + n, mask=m_n, other=0.0, cache_modifier=".cg")
        p_x = patches[None, :] + n.to(tl.int64)[:, None] * x_token
        total += w[:, None] * tl.load(p_x, mask=m_n[:, None] & m_c[None, :], other=0.0).to(tl.float32)
    tl.store(context + c, tl.sum(total, axis=0), mask=m_c)


@triton.jit
def average_cells(
    patches, content, weights, context, c, x_token,
    channels, pitch, out_height, out_width, y_size, y_out, x_size, x_out, longest_x,
    FUSED: tl.constexpr, BC: tl.constexpr, CELLS: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """content = the average of every cell, for channels c. FUSED: one prompt, and each token lies in one cell, so that
    the same tiles give the context."""
    m_c = c < channels
    # [CELLS * SPAN, BC]
    total = tl.zeros([CELLS * SPAN, BC], tl.float32)
    for first in range(0, out_width, CELLS):
        # [CELLS * SPAN]
        t, t_end = columns(first, out_width, x_size, x_out, CELLS, SPAN)
        # [CELLS]
        j = first + tl.arange(0, CELLS)
        x0, x1 = span(j, x_size, x_out)
        for i in range(0, out_height):
            y0, y1 = span(i, y_size, y_out)
            # [CELLS, BC]
            cell = tl.zeros([CELLS, BC], tl.float32)
            for y in range(y0, y1):
                for dx in range(0, longest_x, SPAN):
                    n = y * pitch + t + dx
                    m_n = t + dx < t_end
                    p_x = patches[None, :] + n.to(tl.int64)[:, None] * x_token
                    b_x = tl.load(p_x, mask=m_n[:, None] & m_c[None, :], other=0.0).to(tl.float32)
                    cell += tl.sum(tl.reshape(b_x, [CELLS, SPAN, BC]), axis=1)
                    if FUSED:
                        w = tl.load(weights + n, mask=m_n, other=0.0, cache_modifier=".cg")
                        total += w[:, None] * b_x
            area = ((y1 - y0) * (x1 - x0)).to(tl.float32)
            p_content = content + (tl.cast(i, tl.int64) * out_width + j)[:, None] * channels + c[None, :]
            tl.store(p_content, cell / area[:, None], mask=(j < out_width)[:, None] & m_c[None, :])
    if FUSED:
        tl.store(context + c, tl.sum(total, axis=0), mask=m_c)


@functools.lru_cache
def _card(index: int) -> Card:
    properties = torch.cuda.get_device_properties(index)
    return Card(
        properties.L2_cache_size,
        properties.shared_memory_per_block_optin,
        properties.multi_processor_count,
        wgmma=properties.major in (9, 10),
    )


def card(tensor: Tensor) -> Card:
    """The device of `tensor`; the interpreter has a small one, whose sweeps follow soon after the scores."""
    return _card(tensor.device.index) if tensor.is_cuda else INTERPRETED


def order_of_work(config: FrameConfig, frames: int, tokens: int, slices: int, cu_seqlens: Tensor | None) -> Work:
    """`tokens`: of a frame, or of all frames where they are packed."""
    if cu_seqlens is None:
        return frame_work(frames, config.parts(tokens), slices, config.group, config.lag)
    ahead = config.lag * config.group * config.parts(tokens // max(frames, 1))
    return packed_work(cu_seqlens, tokens, config.token_tile, slices, config.group, ahead)


def frames_at_once(frames: int, frame_bytes: int, group: int = 1) -> int:
    """Frames of one launch, in whole groups, whose workspace of `frame_bytes` each stays within WORKSPACE."""
    return min(frames, max(1, WORKSPACE // (frame_bytes * group)) * group)


def mask_strides(query_mask: Tensor | None) -> tuple[int, int, int]:
    if query_mask is None:
        return 0, 0, 0
    prompt, frame, query = query_mask.stride()
    return prompt, frame if query_mask.shape[1] > 1 else 0, query


def query_strides(query: Tensor) -> tuple[int, int, int, int]:
    prompt, frame, row, channel = query.stride()
    return prompt, frame if query.shape[1] > 1 else 0, row, channel


def frames_of(tensor: Tensor | None, dim: int, begin: int, end: int) -> Tensor | None:
    """Frames begin..end of `tensor`, whose `dim` counts frames unless it has one entry for all of them."""
    return tensor if tensor is None or tensor.shape[dim] == 1 else tensor.narrow(dim, begin, end - begin)


def frame_pass(
    query: Tensor, patches: Tensor, query_mask: Tensor | None, scale: float,
    view: Window | None = None, content: Tensor | None = None, cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """query [P, Q, M, C], patches [F, N, C] without prefix, or packed [total, C] with cu_seqlens [F + 1] -> context
    [P, F, C], weights [P, F, N] or [P, total], lse [P, F, M]. With `view`, fills content [F, cells, C] too."""
    prompts, _, queries, channels = query.shape
    frames = patches.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    # of a frame, or of all of them
    tokens = patches.shape[-2]
    context = patches.new_empty(prompts, frames, channels)
    weights = patches.new_empty(prompts, *patches.shape[:-1], dtype=torch.float32)
    lse = patches.new_empty(prompts, frames, queries, dtype=torch.float32)
    rows = prompts * queries
    if frames * tokens * rows == 0:
        return context.zero_(), weights.zero_(), lse.fill_(float("-inf"))

    typical = tokens if cu_seqlens is None else tokens // frames
    config = frame_config(typical, channels, rows, patches.element_size(), card(patches))
    slices = config.slices(channels)
    if view is None:
        cells, columns_, geometry = 1, 1, (1,) * 8
    else:
        cells, columns_ = tile_shape(view.out_width, view.longest_x, config.slice_rows)
        geometry = (view.pitch, view.out_height, view.out_width, *view.y, *view.x, view.longest_x)
    several = prompts > 1
    at_once = frames if cu_seqlens is not None else frames_at_once(frames, 4 * tokens * rows)
    scores = weights.new_empty((at_once if cu_seqlens is None else 1) * tokens * rows)
    for begin in range(0, frames, at_once):
        end = min(begin + at_once, frames)
        work = order_of_work(config, end - begin, tokens, slices, cu_seqlens)
        progress = torch.zeros((end - begin) * (1 + slices), dtype=torch.int32, device=patches.device)
        x, mask = (patches if cu_seqlens is not None else patches[begin:end]), frames_of(query_mask, 1, begin, end)
        for first, programs in work.launches:
            with torch.cuda.device_of(patches):
                frame_pass_kernel[(programs,)](
                    frames_of(query, 1, begin, end), x, None if mask is None else mask.view(torch.uint8), cu_seqlens,
                    work.table, scores, progress, context[:, begin:], None if content is None else content[begin:],
                    weights if cu_seqlens is not None else weights[:, begin:], lse[:, begin:],
                    *query_strides(query), *(() if cu_seqlens is None else (0,)), *patches.stride(),
                    *mask_strides(query_mask), first, work.lag, scale, prompts, end - begin, frames,
                    weights.stride(0), queries, tokens, channels, *geometry,
                    POOL=view is not None, FUSED=view is not None and not several and view.tiles_once(tokens),
                    PROMPTS=several, GAIN=WEIGHT_GAIN if patches.dtype == torch.float16 else 1.0,
                    UPCAST=not patches.is_cuda and patches.dtype == torch.bfloat16,
                    BT=config.token_tile, BK=config.channel_tile, BQ=config.query_tile, BC=config.slice,
                    BP=PROMPT_TILE, ROWS=config.slice_rows, CELLS=cells, SPAN=columns_,
                    num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
                )  # fmt: skip
    return context, weights, lse
