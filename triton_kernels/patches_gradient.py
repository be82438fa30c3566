"""Gradient of the patches from a frame's slopes, written once; it reads no patches (`frame_backward` has the formula)."""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.frame_config import patches_config
from longreel.triton_kernels.frame_pass import query_strides
from longreel.triton_kernels.frame_work import VARYING, frame_start, frame_tokens, frame_work, packed_work, work_item
from longreel.triton_kernels.window import Window, span
from torch import Tensor


@triton.jit(do_not_specialize=VARYING)
def patches_gradient_kernel(
    slopes, factors, weights, query, grad_context, grad_content, cu_seqlens, work, grad_patches,
    q_prompt, q_frame, q_query, q_channel, c_frame, c_cell, c_channel, s_frame,
    prompts, frames, all_frames, w_prompt, queries, tokens, channels,
    pitch, height, width, out_width, y_size, y_out, x_size, x_out, longest_y_cells, longest_x_cells,
    POOL: tl.constexpr, UPCAST: tl.constexpr,
    BT: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program: BT tokens of one frame, WIDTH channels. grad_patches is dense in tokens."""
    place, tile = work_item(work, tl.program_id(0), frames, tl.cdiv(tokens, BT), 0, 1, 0)
    if place >= 0:
        frame = place.to(tl.int64)
        row, count = frame_tokens(cu_seqlens, frame, tokens)
        p_out = frame_start(grad_patches, cu_seqlens, frame, row, s_frame, channels)
        rows = prompts * queries
        factor = tl.load(factors + frame)
        # [BT]
        n = tile * BT + tl.arange(0, BT)
        m_n = n < count
        if POOL:
            y = n // pitch
            x = n % pitch
            i0, i1 = span(y, y_out, y_size)
            j0, j1 = span(x, x_out, x_size)
            i1 = tl.where(m_n & (y < height) & (x < width), i1, 0)
        start = tl.program_id(1) * WIDTH
        for first in range(start, tl.minimum(start + WIDTH, channels), BC):
            # [BC]
            c = first + tl.arange(0, BC)
            m_c = c < channels
            # [BT, BC]
            total = tl.zeros([BT, BC], tl.float32)
            for first_row in range(0, rows, BR):
                # [BR]
                r = first_row + tl.arange(0, BR)
                m_r = r < rows
                p_slopes = slopes + (row + n)[:, None] * rows + r[None, :]
                b_s = tl.load(p_slopes, mask=m_n[:, None] & m_r[None, :], other=0.0)
                p_q = query + frame * q_frame + (r // queries).to(tl.int64) * q_prompt
                p_q = p_q + (r % queries).to(tl.int64) * q_query
                p_q = p_q[:, None] + c.to(tl.int64)[None, :] * q_channel
                b_q = tl.load(p_q, mask=m_r[:, None] & m_c[None, :], other=0.0)
                if UPCAST:
                    b_s = b_s.to(tl.float32)
                    b_q = b_q.to(tl.float32)
                total = tl.dot(b_s, b_q, total, input_precision="ieee")
            total *= factor
            if grad_context is not None:
                for prompt in range(0, prompts):
                    prompt_ = tl.cast(prompt, tl.int64)
                    w = tl.load(weights + prompt_ * w_prompt + row + n, mask=m_n, other=0.0)
                    p_g = grad_context + (prompt_ * all_frames + frame) * channels + c
                    total += w[:, None] * tl.load(p_g, mask=m_c, other=0.0).to(tl.float32)[None, :]
            if POOL:
                p_grad = grad_content + frame * c_frame + c.to(tl.int64)[None, :] * c_channel
                for di in range(0, longest_y_cells):
                    y0, y1 = span(i0 + di, y_size, y_out)
                    for dj in range(0, longest_x_cells):
                        x0, x1 = span(j0 + dj, x_size, x_out)
                        m = (i0 + di < i1) & (j0 + dj < j1)
                        cell = (i0 + di).to(tl.int64) * out_width + j0 + dj
                        b_g = tl.load(p_grad + cell[:, None] * c_cell, mask=m[:, None] & m_c[None, :], other=0.0)
                        area = ((y1 - y0) * (x1 - x0)).to(tl.float32)
                        total += b_g.to(tl.float32) / area[:, None]
            tl.store(p_out + n.to(tl.int64)[:, None] * channels + c[None, :], total, mask=m_n[:, None] & m_c[None, :])


def patches_gradient(
    slopes: Tensor, factors: Tensor, weights: Tensor | None, query: Tensor, grad_context: Tensor | None,
    grad_content: Tensor | None, cu_seqlens: Tensor | None, grad_patches: Tensor, view: Window | None, all_frames: int,
) -> None:  # fmt: skip
    """Fills grad_patches [F, N, C] or packed [total, C], dense in tokens, from what `frame_backward` leaves: slopes [tokens,
    P M], factors [F], weights [P, tokens]. grad_context [P, all_frames, C] begins with these frames."""
    prompts, _, queries, channels = query.shape
    tokens = grad_patches.shape[-2]
    config = patches_config(prompts * queries, query.element_size())
    if cu_seqlens is None:
        frames = grad_patches.shape[0]
        work = frame_work(frames, -(-tokens // config.token_tile), 0, 1, 0)
    else:
        frames = cu_seqlens.shape[0] - 1
        work = packed_work(cu_seqlens, tokens, config.token_tile, 0, 1, 0)
    geometry: tuple[int, ...] = (1,) * 10
    strides: tuple[int, ...] = (0, 0, 0)
    if view is not None and grad_content is not None:
        # a window of one row has no second to be told from
        pitch = view.width if view.height == 1 else view.pitch
        cells = (view.longest_y_cells, view.longest_x_cells)
        geometry = (pitch, view.height, view.width, view.out_width, *view.y, *view.x, *cells)
        strides = grad_content.stride()
    programs = work.launches[0][1]
    with torch.cuda.device_of(query):
        patches_gradient_kernel[programs, triton.cdiv(channels, config.span)](
            slopes, factors, weights, query, grad_context, grad_content, cu_seqlens, work.table, grad_patches,
            *query_strides(query), *strides, 0 if cu_seqlens is not None else grad_patches.stride(0),
            prompts, frames, all_frames, 0 if weights is None else weights.numel() // prompts, queries, tokens, channels,
            *geometry, POOL=grad_content is not None, UPCAST=not query.is_cuda and query.dtype == torch.bfloat16,
            BT=config.token_tile, BR=config.row_tile, BC=config.channel_tile, WIDTH=config.span,
            num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
