"""adaptive_pool: the average of every cell of a token window, and its gradient gathered token by token.

Forward and backward are one picture with the roles exchanged: cell i of `out` covers rows floor(i * size / out) ..
ceil((i + 1) * size / out), and row y lies in cells floor(y * out / size) .. ceil((y + 1) * out / size).
"""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.launch import DTYPES, TRITON_NAMES, Signature, pow2, signature
from longreel.triton_kernels.window import columns, span, window
from torch import Tensor

__all__ = ["DTYPES", "adaptive_pool", "adaptive_pool_backward", "aot_signatures"]

ROWS = 16  # token rows of one tile: 16 x 256 channels keep four 16-byte loads of a thread in flight
CHANNELS = 256  # channels of one tile
WARPS = 4


@triton.jit
def adaptive_pool_kernel(
    x, content,
    s_frame, s_token, s_channel,
    channels, pitch, out_height, out_width, y_size, y_out, x_size, x_out, longest_x,
    CELLS: tl.constexpr, SPAN: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program: CELLS neighbouring cells of one row of cells, BC channels."""
    tiles = tl.cdiv(out_width, CELLS)
    # row of cells, counted over frames
    row = tl.program_id(0) // tiles
    first = tl.program_id(0) % tiles * CELLS
    y0, y1 = span(row % out_height, y_size, y_out)
    # [CELLS * SPAN]
    t, t_end = columns(first, out_width, x_size, x_out, CELLS, SPAN)
    # [BC]
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    m_c = c < channels
    p_x = x + (row // out_height).to(tl.int64) * s_frame + c.to(tl.int64) * s_channel

    # [CELLS, BC]
    total = tl.zeros([CELLS, BC], tl.float32)
    for y in range(y0, y1):
        for dx in range(0, longest_x, SPAN):
            token = (y * pitch + t + dx).to(tl.int64)
            # [CELLS * SPAN, BC]
            b_x = tl.load(
                p_x[None, :] + token[:, None] * s_token, mask=(t + dx < t_end)[:, None] & m_c[None, :], other=0.0
            )
            total += tl.sum(tl.reshape(b_x.to(tl.float32), [CELLS, SPAN, BC]), axis=1)

    # [CELLS]
    j = first + tl.arange(0, CELLS)
    x0, x1 = span(j, x_size, x_out)
    area = ((y1 - y0) * (x1 - x0)).to(tl.float32)
    p_content = content + (row.to(tl.int64) * out_width + j)[:, None] * channels + c[None, :]
    tl.store(p_content, total / area[:, None], mask=(j < out_width)[:, None] & m_c[None, :])


@triton.jit
def adaptive_pool_backward_kernel(
    grad, grad_x,
    g_frame, g_cell, g_channel, s_frame,
    channels, pitch, height, width, out_width, y_size, y_out, x_size, x_out, longest_x_cells,
    TOKENS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program: TOKENS neighbouring tokens of one row of the window, BC channels. grad_x is dense in tokens."""
    tiles = tl.cdiv(width, TOKENS)
    row = tl.program_id(0) // tiles
    frame = (row // height).to(tl.int64)
    y = row % height
    # [TOKENS]
    t = tl.program_id(0) % tiles * TOKENS + tl.arange(0, TOKENS)
    j0, j1 = span(t, x_out, x_size)
    j1 = tl.where(t < width, j1, 0)
    i0, i1 = span(y, y_out, y_size)
    # [BC]
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    m_c = c < channels
    p_grad = grad + frame * g_frame + c.to(tl.int64) * g_channel

    # [TOKENS, BC]
    total = tl.zeros([TOKENS, BC], tl.float32)
    for i in range(i0, i1):
        y0, y1 = span(i, y_size, y_out)
        for dj in range(0, longest_x_cells):
            j = j0 + dj
            x0, x1 = span(j, x_size, x_out)
            cell = (i * out_width + j).to(tl.int64)
            b_grad = tl.load(p_grad[None, :] + cell[:, None] * g_cell, mask=(j < j1)[:, None] & m_c[None, :], other=0.0)
            area = ((y1 - y0) * (x1 - x0)).to(tl.float32)
            total += b_grad.to(tl.float32) / area[:, None]

    p_out = grad_x + frame * s_frame + (y * pitch + t).to(tl.int64)[:, None] * channels + c[None, :]
    tl.store(p_out, total, mask=(t < width)[:, None] & m_c[None, :])


def tile_shape(out_width: int, longest_x: int, rows: int = ROWS) -> tuple[int, int]:
    """(cells, columns of each cell) of a tile of at most `rows` rows."""
    cells = pow2(out_width, 1, rows)
    return cells, pow2(longest_x, 1, rows // cells)


def adaptive_pool(
    patches: Tensor, prefix: int, pitch: int, height: int, width: int, out_height: int, out_width: int
) -> Tensor:
    """patches [F, N, C], any strides -> [F, out_height * out_width, C], the patches' dtype."""
    frames, _, channels = patches.shape
    content = patches.new_empty(frames, out_height * out_width, channels)
    if content.numel() == 0:
        return content
    view = window(pitch, height, width, out_height, out_width)
    cells, columns_ = tile_shape(view.out_width, view.longest_x)
    programs = frames * view.out_height * triton.cdiv(view.out_width, cells)
    with torch.cuda.device_of(patches):
        adaptive_pool_kernel[programs, triton.cdiv(channels, CHANNELS)](
            patches[:, prefix:], content, *patches.stride(),
            channels, pitch, view.out_height, view.out_width, *view.y, *view.x, view.longest_x,
            CELLS=cells, SPAN=columns_, BC=CHANNELS, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return content


def adaptive_pool_backward(
    grad: Tensor, tokens: int, prefix: int, pitch: int, height: int, width: int, out_height: int, out_width: int
) -> Tensor:
    """grad [F, out_height * out_width, C], any strides -> the gradient of the patches [F, tokens, C], contiguous."""
    frames, _, channels = grad.shape
    grad_patches = grad.new_empty(frames, tokens, channels)
    grad_patches[:, :prefix].zero_()
    if height * width * out_height * out_width == 0 or height * width < tokens - prefix:
        grad_patches[:, prefix:].zero_()
    if grad.numel() == 0 or height * width == 0:
        return grad_patches
    view = window(pitch, height, width, out_height, out_width)
    rows = pow2(view.width, 1, ROWS)
    programs = frames * view.height * triton.cdiv(view.width, rows)
    with torch.cuda.device_of(grad):
        adaptive_pool_backward_kernel[programs, triton.cdiv(channels, CHANNELS)](
            grad, grad_patches[:, prefix:], *grad.stride(), tokens * channels,
            channels, pitch, view.height, view.width, view.out_width, *view.y, *view.x, view.longest_x_cells,
            TOKENS=rows, BC=CHANNELS, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return grad_patches


def aot_signatures() -> list[Signature]:
    """16 x 16 tokens to 4 x 4 cells, 16-byte aligned, in every dtype."""
    found = []
    for dtype in DTYPES:
        pointer = f"*{TRITON_NAMES[dtype]}:16"
        forward = {
            "x": pointer, "content": pointer, "s_frame": "i32:16", "s_token": "i32:16", "channels": "i32:16",
            "pitch": "i32:16", "out_height": "i32", "out_width": "i32", "y_size": "i32", "x_size": "i32",
            "longest_x": "i32",
        }  # fmt: skip
        backward = {
            "grad": pointer, "grad_x": pointer, "g_frame": "i32:16", "g_cell": "i32:16", "s_frame": "i32:16",
            "channels": "i32:16", "pitch": "i32:16", "height": "i32:16", "width": "i32:16", "out_width": "i32",
            "y_size": "i32", "x_size": "i32",
        }  # fmt: skip
        ones = {"s_channel": 1, "y_out": 1, "x_out": 1, "CELLS": 4, "SPAN": 4, "BC": CHANNELS}
        back_ones = {"g_channel": 1, "y_out": 1, "x_out": 1, "longest_x_cells": 1, "TOKENS": 16, "BC": CHANNELS}
        name = TRITON_NAMES[dtype]
        found.append(signature(f"adaptive_pool/{name}", adaptive_pool_kernel, forward, ones, WARPS, 3))
        found.append(
            signature(f"adaptive_pool_backward/{name}", adaptive_pool_backward_kernel, backward, back_ones, WARPS, 3)
        )
    return found
