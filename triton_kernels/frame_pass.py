"""The frame pass: context tokens, weights and pooled tokens of every frame, in one read of the patches from memory.

A frame is cut into programs that score 128 tokens each (parts) and programs that average 256 channels each (slices).
The last part to finish turns the frame's scores into weights; the slices wait for them. Programs take their work by
ticket, in an order where the slices of frame f come `in_flight` frames after its scores: the second sweep finds the
frame in L2, and nobody waits for a ticket that has not been taken, so the pass cannot stall. With two frames in flight:

    tickets ->   scores 0 | scores 1 | scores 2, slices 0 | scores 3, slices 1 | slices 2 | slices 3
"""

import functools

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.adaptive_pool import tile_shape
from longreel.triton_kernels.frame_config import FrameConfig, frame_config
from longreel.triton_kernels.launch import TRITON_NAMES, Signature, signature
from longreel.triton_kernels.window import Window, columns, span
from torch import Tensor

INTERPRETED_L2 = 1 << 20


@triton.jit
def frame_pass_kernel(
    query, patches, query_mask, scores, progress, context, content, weights, lse,
    q_prompt, q_frame, q_query, q_channel, x_frame, x_token, x_channel, m_prompt, m_frame, m_query,
    scale, prompts, frames, queries, tokens, channels, in_flight,
    pitch, out_height, out_width, y_size, y_out, x_size, x_out, longest_x,
    POOL: tl.constexpr, FUSED: tl.constexpr, UPCAST: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr, CELLS: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """progress int32 [1 + 2 F], zero at the start: next ticket; parts scored of a frame; are its weights out."""
    parts = tl.cdiv(tokens, BT)
    work = parts + tl.cdiv(channels, BC)
    ticket = tl.atomic_add(progress, 1)
    step = ticket // work
    item = ticket % work
    scored = progress + 1
    ready = scored + frames

    if item < parts:
        if step < frames:
            frame = step.to(tl.int64)
            rows = prompts * queries
            # the scores take the place of the frame `in_flight` before, once its weights are out
            if step >= in_flight:
                wait(ready + frame - in_flight)
            p_scores = scores + (frame % in_flight) * tokens * rows
            score_part(
                query + frame * q_frame, patches + frame * x_frame, p_scores,
                q_prompt, q_query, q_channel, x_token, x_channel, scale, rows, queries, tokens, channels,
                item * BT, UPCAST, BT, BK, BQ,
            )  # fmt: skip
            tl.debug_barrier()
            if tl.atomic_add(scored + frame, 1, sem="acq_rel") == parts - 1:
                for prompt in range(0, prompts):
                    row = tl.cast(prompt, tl.int64) * frames + frame
                    mask_row = tl.cast(prompt, tl.int64) * m_prompt + frame * m_frame
                    average_rows(
                        p_scores + prompt * queries, query_mask, mask_row, weights + row * tokens, lse + row * queries,
                        m_query, tl.abs(scale), rows, queries, tokens, 2048 // BQ, BQ,
                    )  # fmt: skip
                tl.debug_barrier()
                tl.atomic_xchg(ready + frame, 1, sem="release")
    else:
        if step >= in_flight:
            frame = step.to(tl.int64) - in_flight
            wait(ready + frame)
            # [BC]
            c = (item - parts) * BC + tl.arange(0, BC)
            p_patches = patches + frame * x_frame + c.to(tl.int64) * x_channel
            if POOL:
                average_cells(
                    p_patches, content + frame * out_height * out_width * channels, weights + frame * tokens,
                    context + frame * channels, c, x_token,
                    channels, pitch, out_height, out_width, y_size, y_out, x_size, x_out, longest_x,
                    FUSED, BC, CELLS, SPAN,
                )  # fmt: skip
            if not FUSED:
                for prompt in range(0, prompts):
                    row = tl.cast(prompt, tl.int64) * frames + frame
                    average_tokens(
                        p_patches, weights + row * tokens, context + row * channels, c, x_token, tokens, channels,
                        CELLS * SPAN, BC,
                    )  # fmt: skip


@triton.jit
def wait(flag):
    while tl.atomic_add(flag, 0, sem="acquire") == 0:
        pass


@triton.jit
def score_part(
    query, patches, scores, q_prompt, q_query, q_channel, x_token, x_channel,
    scale, rows, queries, tokens, channels, first,
    UPCAST: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """scores[n, r] = x_n . q_r, negated where scale is negative, for tokens first .. first + BT; row r is query
    r % queries of prompt r // queries."""
    # [BT], [BK]
    n = first + tl.arange(0, BT)
    k = tl.arange(0, BK)
    m_n = n < tokens
    for first_row in range(0, rows, BQ):
        # [BQ]
        r = first_row + tl.arange(0, BQ)
        m_r = r < rows
        p_q = query + (r // queries).to(tl.int64) * q_prompt + (r % queries).to(tl.int64) * q_query
        p_q = p_q[None, :] + k.to(tl.int64)[:, None] * q_channel
        p_x = patches + n.to(tl.int64)[:, None] * x_token + k.to(tl.int64)[None, :] * x_channel
        # [BT, BQ]
        s = tl.zeros([BT, BQ], tl.float32)
        lost = tl.zeros([BT, BQ], tl.float32)
        for done in range(0, channels, BK):
            m_k = k < channels - done
            b_x = tl.load(p_x, mask=m_n[:, None] & m_k[None, :], other=0.0)
            b_q = tl.load(p_q, mask=m_k[:, None] & m_r[None, :], other=0.0)
            if UPCAST:
                b_x = b_x.to(tl.float32)
                b_q = b_q.to(tl.float32)
            if b_x.dtype == tl.float32:
                # what a long sum drops is carried along: softmax turns absolute errors of scores into relative ones
                term = tl.dot(b_x, b_q, input_precision="ieee") - lost
                total = s + term
                lost = (total - s) - term
                s = total
            else:
                s = tl.dot(b_x, b_q, s)
            p_x += tl.cast(BK, tl.int64) * x_channel
            p_q += tl.cast(BK, tl.int64) * q_channel
        s = tl.where(scale < 0, -s, s)
        tl.store(scores + n.to(tl.int64)[:, None] * rows + r[None, :], s, mask=m_n[:, None] & m_r[None, :])


@triton.jit
def average_rows(
    scores, query_mask, mask_row, weights, lse, m_query, scale, rows, queries, tokens,
    BT: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """weights = the mean over valid queries of softmax over tokens; lse of every query, -inf where it is not valid.

    The scale, not negative here, joins after the largest score has been subtracted: large scores lose nothing to it.
    """
    # [BQ], [BT]
    q = tl.arange(0, BQ)
    n = tl.arange(0, BT)
    count = 0
    for first in range(0, queries, BQ):
        count += tl.sum(valid(query_mask, mask_row, first + q, queries, m_query).to(tl.int32))
    share = 1.0 / tl.maximum(count, 1)

    for first in range(0, queries, BQ):
        m_q = first + q < queries
        m_valid = valid(query_mask, mask_row, first + q, queries, m_query)
        p_s = scores + n.to(tl.int64)[:, None] * rows + (first + q)[None, :]
        top = tl.full([BQ], float("-inf"), tl.float32)
        for t in range(0, tokens, BT):
            m_n = t + n < tokens
            # [BT, BQ]
            s = read_scores(p_s, t, rows, m_n, m_q)
            top = tl.maximum(top, tl.max(tl.where(m_n[:, None], s, float("-inf")), axis=0))
        total = tl.zeros([BQ], tl.float32)
        for t in range(0, tokens, BT):
            m_n = t + n < tokens
            s = read_scores(p_s, t, rows, m_n, m_q)
            total += tl.sum(tl.where(m_n[:, None], tl.exp((s - top[None, :]) * scale), 0.0), axis=0)
        tl.store(lse + first + q, tl.where(m_valid, top * scale + tl.log(total), float("-inf")), mask=m_q)
        part = share / total

        for t in range(0, tokens, BT):
            m_n = t + n < tokens
            s = read_scores(p_s, t, rows, m_n, m_q)
            p = tl.where(m_valid[None, :], tl.exp((s - top[None, :]) * scale) * part[None, :], 0.0)
            # [BT]
            w = tl.sum(p, axis=1)
            if first > 0:
                w += tl.load(weights + t + n, mask=m_n, other=0.0, cache_modifier=".cg")
            tl.store(weights + t + n, w, mask=m_n)
        tl.debug_barrier()


@triton.jit
def read_scores(p_s, t, rows, m_n, m_q):
    """[BT, BQ] from token t on; past L1, which may hold an earlier frame's scores."""
    return tl.load(p_s + tl.cast(t, tl.int64) * rows, mask=m_n[:, None] & m_q[None, :], other=0.0, cache_modifier=".cg")


@triton.jit
def valid(query_mask, mask_row, q, queries, m_query):
    """[BQ] Whether query q exists and takes part."""
    m = q < queries
    if query_mask is not None:
        m &= tl.load(query_mask + mask_row + q.to(tl.int64) * m_query, mask=m, other=0) != 0
    return m


@triton.jit
def average_tokens(patches, weights, context, c, x_token, tokens, channels, ROWS: tl.constexpr, BC: tl.constexpr):
    """context = sum over tokens of weights[n] x_n, for channels c; `patches` [BC] points at them in token 0."""
    m_c = c < channels
    # [ROWS, BC]
    total = tl.zeros([ROWS, BC], tl.float32)
    for t in range(0, tokens, ROWS):
        n = t + tl.arange(0, ROWS)
        m_n = n < tokens
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
def _card(index: int) -> tuple[int, int]:
    """(bytes of L2, a block's opt-in shared memory) of a CUDA device."""
    properties = torch.cuda.get_device_properties(index)
    return properties.L2_cache_size, properties.shared_memory_per_block_optin


def configure(patches: Tensor, tokens: int, queries: int) -> FrameConfig:
    card = _card(patches.device.index) if patches.is_cuda else (INTERPRETED_L2,)
    return frame_config(tokens, patches.shape[-1], queries, patches.element_size(), *card)


def frame_pass(
    query: Tensor, patches: Tensor, query_mask: Tensor | None, scale: float, view: Window | None, content: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """query [P, Q, M, C], patches [F, N, C] without prefix -> context [P, F, C], weights [P, F, N], lse [P, F, M].
    With `view`, fills content [F, cells, C] too; None is no pooling."""
    prompts, per_frame, queries, channels = query.shape
    frames, tokens, _ = patches.shape
    context = patches.new_empty(prompts, frames, channels)
    weights = patches.new_empty(prompts, frames, tokens, dtype=torch.float32)
    lse = patches.new_empty(prompts, frames, queries, dtype=torch.float32)
    rows = prompts * queries
    if frames * tokens * rows == 0:
        return context.zero_(), weights.zero_(), lse.fill_(float("-inf"))

    config = configure(patches, tokens, rows)
    in_flight = min(config.frames_in_flight, frames)
    scores = weights.new_empty(in_flight * tokens * rows)
    progress = torch.zeros(1 + 2 * frames, dtype=torch.int32, device=patches.device)
    if view is None:
        cells, columns_, geometry = 1, config.slice_rows, (1,) * 8
    else:
        cells, columns_ = tile_shape(view.out_width, view.longest_x, config.slice_rows)
        geometry = (view.pitch, view.out_height, view.out_width, *view.y, *view.x, view.longest_x)
    programs = (frames + in_flight) * (config.parts(tokens) + config.slices(channels))
    with torch.cuda.device_of(patches):
        frame_pass_kernel[(programs,)](
            query, patches, None if query_mask is None else query_mask.view(torch.uint8),
            scores, progress, context, content, weights, lse,
            query.stride(0), query.stride(1) if per_frame > 1 else 0, query.stride(2), query.stride(3),
            *patches.stride(), *_mask_strides(query_mask),
            scale, prompts, frames, queries, tokens, channels, in_flight, *geometry,
            POOL=view is not None, FUSED=view is not None and prompts == 1 and view.tiles_once(tokens),
            UPCAST=not patches.is_cuda and patches.dtype == torch.bfloat16,
            BT=config.token_tile, BK=config.channel_tile, BQ=config.query_tile, BC=config.slice,
            CELLS=cells, SPAN=columns_, num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
    return context, weights, lse


def _mask_strides(query_mask: Tensor | None) -> tuple[int, int, int]:
    if query_mask is None:
        return 0, 0, 0
    prompt, frame, query = query_mask.stride()
    return prompt, frame if query_mask.shape[1] > 1 else 0, query


def frame_pass_signatures(name: str, pool: bool) -> list[Signature]:
    """The pass over frames of 256 x 1408, 32 shared queries, in every dtype; and 128 queries, a text decoder's rows."""
    found = []
    for dtype, queries in ((torch.float32, 32), (torch.float16, 32), (torch.bfloat16, 32), (torch.bfloat16, 128)):
        kind = TRITON_NAMES[dtype]
        pointers = dict.fromkeys(("query", "patches", "context"), f"*{kind}:16")
        pointers |= dict.fromkeys(("scores", "weights", "lse"), "*fp32:16") | {"progress": "*i32:16"}
        wide = dict.fromkeys(("q_prompt", "q_query", "x_frame", "x_token", "queries", "tokens", "channels"), "i32:16")
        types = pointers | wide | {"scale": "fp32", "frames": "i32", "in_flight": "i32"}
        geometry = ("pitch", "out_height", "out_width", "y_size", "x_size", "longest_x")
        constants = dict.fromkeys(("q_channel", "x_channel", "prompts", "y_out", "x_out"), 1)
        constants |= dict.fromkeys(("q_frame", "m_prompt", "m_frame", "m_query"), 0) | {"query_mask": None}
        if pool:
            types |= dict.fromkeys(geometry, "i32") | {"content": f"*{kind}:16"}
        else:
            constants |= dict.fromkeys(geometry, 1) | {"content": None}
        config = frame_config(256, 1408, queries, dtype.itemsize, 50 << 20)
        cells, columns_ = (4, 4) if pool else (1, config.slice_rows)
        tiles = {
            "POOL": pool, "FUSED": pool, "UPCAST": False, "BT": config.token_tile, "BK": config.channel_tile,
            "BQ": config.query_tile, "BC": config.slice, "CELLS": cells, "SPAN": columns_,
        }  # fmt: skip
        label, sizes = f"{name}/{kind}/{queries} queries", (config.num_warps, config.num_stages)
        found.append(signature(label, frame_pass_kernel, types, constants | tiles, *sizes))
    return found
