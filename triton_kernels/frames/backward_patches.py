"""Gradient of the patches from a frame's ds, written once; it reads no patches (`backward` has the formula)."""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.common.launch import upcast
from longreel.triton_kernels.common.pool_window import PoolWindow, span
from longreel.triton_kernels.frames.config import patches_config
from longreel.triton_kernels.frames.launch import Patches, frame_start, frame_tokens, patches_of, query_of, query_start
from longreel.triton_kernels.frames.scheduler import (
    VARYING,
    VARYING_BEYOND_ONE,
    frames_schedule,
    packed_schedule,
    scheduled,
)
from torch import Tensor


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=VARYING_BEYOND_ONE)
def frames_backward_patches_kernel(
    ds, ds_scale, weights, query, dcontext, dcontent, cu_seqlens, table, dx, window,
    prompts, frames, all_frames, weights_prompt, queries, tokens, channels,
    UPCAST: tl.constexpr, BT: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program: BT tokens of one frame, WIDTH channels. dx is dense in tokens; dcontent with `window`."""
    place, tile = scheduled(table, tl.program_id(0), frames, tl.cdiv(tokens, BT), 0, 1, 0)
    if place >= 0:
        frame = place.to(tl.int64)
        row, count = frame_tokens(cu_seqlens, frame, tokens)
        p_dx = frame_start(dx, cu_seqlens, frame, row)
        p_query = query_start(query, frame)
        rows = prompts * queries
        factor = tl.load(ds_scale + frame)
        # [BT]
        n = tile * BT + tl.arange(0, BT)
        m_n = n < count
        if window is not None:
            y = n // window.pitch
            x = n % window.pitch
            i0, i1 = span(y, window.y_out, window.y_size)
            j0, j1 = span(x, window.x_out, window.x_size)
            i1 = tl.where(m_n & (y < window.height) & (x < window.width), i1, 0)
        start = tl.program_id(1) * WIDTH
        for first in range(start, tl.minimum(start + WIDTH, channels), BC):
            # [BC]
            o_c = first + tl.arange(0, BC)
            m_c = o_c < channels
            # [BT, BC]
            acc = tl.zeros([BT, BC], tl.float32)
            for first_row in range(0, rows, BR):
                # [BR]
                r = first_row + tl.arange(0, BR)
                m_r = r < rows
                p_ds = ds + (row + n)[:, None] * rows + r[None, :]
                b_ds = tl.load(p_ds, mask=m_n[:, None] & m_r[None, :], other=0.0)
                p_q = p_query + (r // queries).to(tl.int64) * query.prompt
                p_q = p_q + (r % queries).to(tl.int64) * query.query
                p_q = p_q[:, None] + o_c.to(tl.int64)[None, :] * query.channel
                b_q = tl.load(p_q, mask=m_r[:, None] & m_c[None, :], other=0.0)
                if UPCAST:
                    b_ds = b_ds.to(tl.float32)
                    b_q = b_q.to(tl.float32)
                acc = tl.dot(b_ds, b_q, acc, input_precision="ieee")
            acc *= factor
            if dcontext is not None:
                for prompt in range(0, prompts):
                    prompt_ = tl.cast(prompt, tl.int64)
                    w = tl.load(weights + prompt_ * weights_prompt + row + n, mask=m_n, other=0.0)
                    p_g = dcontext + (prompt_ * all_frames + frame) * channels + o_c
                    acc += w[:, None] * tl.load(p_g, mask=m_c, other=0.0).to(tl.float32)[None, :]
            if window is not None:
                p_c = dcontent.p + frame * dcontent.frame + o_c.to(tl.int64)[None, :] * dcontent.channel
                for di in range(0, window.longest_y_cells):
                    y0, y1 = span(i0 + di, window.y_size, window.y_out)
                    for dj in range(0, window.longest_x_cells):
                        x0, x1 = span(j0 + dj, window.x_size, window.x_out)
                        m = (i0 + di < i1) & (j0 + dj < j1)
                        cell = (i0 + di).to(tl.int64) * window.out_width + j0 + dj
                        p_cell = p_c + cell[:, None] * dcontent.token
                        b_g = tl.load(p_cell, mask=m[:, None] & m_c[None, :], other=0.0)
                        area = ((y1 - y0) * (x1 - x0)).to(tl.float32)
                        acc += b_g.to(tl.float32) / area[:, None]
            tl.store(p_dx + n.to(tl.int64)[:, None] * channels + o_c[None, :], acc, mask=m_n[:, None] & m_c[None, :])


def backward_patches(
    ds: Tensor, ds_scale: Tensor, weights: Tensor | None, query: Tensor, grad_context: Tensor | None,
    grad_content: Tensor | None, cu_seqlens: Tensor | None, grad_patches: Tensor, window: PoolWindow | None,
    all_frames: int,
) -> None:  # fmt: skip
    """Fills grad_patches [F, N, C] or packed [total, C], dense in tokens, from what `backward` leaves: ds [tokens, P M],
    ds_scale [F], weights [P, tokens]. grad_context [P, all_frames, C] begins with these frames. `window` and grad_content
    [F, cells, C] are given together."""
    prompts, _, queries, channels = query.shape
    tokens = grad_patches.shape[-2]
    config = patches_config(prompts * queries, query.element_size())
    if cu_seqlens is None:
        frames = grad_patches.shape[0]
        order = frames_schedule(frames, -(-tokens // config.token_tile), 0, 1, 0)
    else:
        frames = cu_seqlens.shape[0] - 1
        order = packed_schedule(cu_seqlens, tokens, config.token_tile, 0, 1, 0)
    dcontent = None
    if window is None or grad_content is None:
        window = None
    else:
        dcontent = patches_of(grad_content)
        if window.height == 1:
            # a window of one row has no second to be told from
            window = window._replace(pitch=window.width)
    frame_stride = None if cu_seqlens is not None else grad_patches.stride(0)
    programs = order.launches[0][1]
    with torch.cuda.device_of(query):
        frames_backward_patches_kernel[programs, triton.cdiv(channels, config.span)](
            ds, ds_scale, weights, query_of(query, 0, query.shape[1]), grad_context, dcontent, cu_seqlens, order.table,
            Patches(grad_patches, frame_stride, channels, 1), window,
            prompts, frames, all_frames, 0 if weights is None else weights.numel() // prompts, queries, tokens, channels,
            UPCAST=upcast(query), BT=config.token_tile, BR=config.row_tile, BC=config.channel_tile, WIDTH=config.span,
            num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
