"""Frames one by one: the average of every cell of a token window, and its gradient gathered token by token.

Forward and backward are one picture with the roles exchanged: cell i of `out` covers rows floor(i * size / out) ..
ceil((i + 1) * size / out), and row y lies in cells floor(y * out / size) .. ceil((y + 1) * out / size).
"""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.common.launch import pow2
from longreel.triton_kernels.common.pool_window import cell_tile, columns, pool_window, span
from torch import Tensor

ROWS = 16  # token rows of one tile: 16 x 256 channels keep four 16-byte loads of a thread in flight
CHANNELS = 256  # channels of one tile
WARPS = 4


@triton.jit
def adaptive_pool_kernel(
    x, content, x_frame, x_token, x_channel, channels, window,
    CELLS: tl.constexpr, SPAN: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program: CELLS neighbouring cells of one row of cells, BC channels."""
    tiles = tl.cdiv(window.out_width, CELLS)
    # row of cells, counted over frames
    row = tl.program_id(0) // tiles
    first = tl.program_id(0) % tiles * CELLS
    y0, y1 = span(row % window.out_height, window.y_size, window.y_out)
    # [CELLS * SPAN]
    t, t_end = columns(first, window, CELLS, SPAN)
    # [BC]
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)
    m_c = o_c < channels
    p_x = x + (row // window.out_height).to(tl.int64) * x_frame + o_c.to(tl.int64) * x_channel

    # [CELLS, BC]
    acc = tl.zeros([CELLS, BC], tl.float32)
    for y in range(y0, y1):
        for dx in range(0, window.longest_x, SPAN):
            token = (y * window.pitch + t + dx).to(tl.int64)
            # [CELLS * SPAN, BC]
            b_x = tl.load(
                p_x[None, :] + token[:, None] * x_token, mask=(t + dx < t_end)[:, None] & m_c[None, :], other=0.0
            )
            acc += tl.sum(tl.reshape(b_x.to(tl.float32), [CELLS, SPAN, BC]), axis=1)

    # [CELLS]
    j = first + tl.arange(0, CELLS)
    x0, x1 = span(j, window.x_size, window.x_out)
    area = ((y1 - y0) * (x1 - x0)).to(tl.float32)
    p_content = content + (row.to(tl.int64) * window.out_width + j)[:, None] * channels + o_c[None, :]
    tl.store(p_content, acc / area[:, None], mask=(j < window.out_width)[:, None] & m_c[None, :])


@triton.jit
def adaptive_pool_backward_kernel(
    dcontent, dx, g_frame, g_cell, g_channel, x_frame, channels, window, TOKENS: tl.constexpr, BC: tl.constexpr
):  # fmt: skip
    """One program: TOKENS neighbouring tokens of one row of the window, BC channels. dx is dense in tokens."""
    tiles = tl.cdiv(window.width, TOKENS)
    row = tl.program_id(0) // tiles
    frame = (row // window.height).to(tl.int64)
    y = row % window.height
    # [TOKENS]
    t = tl.program_id(0) % tiles * TOKENS + tl.arange(0, TOKENS)
    j0, j1 = span(t, window.x_out, window.x_size)
    j1 = tl.where(t < window.width, j1, 0)
    i0, i1 = span(y, window.y_out, window.y_size)
    # [BC]
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)
    m_c = o_c < channels
    p_dcontent = dcontent + frame * g_frame + o_c.to(tl.int64) * g_channel

    # [TOKENS, BC]
    acc = tl.zeros([TOKENS, BC], tl.float32)
    for i in range(i0, i1):
        y0, y1 = span(i, window.y_size, window.y_out)
        for dj in range(0, window.longest_x_cells):
            j = j0 + dj
            x0, x1 = span(j, window.x_size, window.x_out)
            cell = (i * window.out_width + j).to(tl.int64)
            b_d = tl.load(
                p_dcontent[None, :] + cell[:, None] * g_cell, mask=(j < j1)[:, None] & m_c[None, :], other=0.0
            )
            area = ((y1 - y0) * (x1 - x0)).to(tl.float32)
            acc += b_d.to(tl.float32) / area[:, None]

    p_dx = dx + frame * x_frame + (y * window.pitch + t).to(tl.int64)[:, None] * channels + o_c[None, :]
    tl.store(p_dx, acc, mask=(t < window.width)[:, None] & m_c[None, :])


def pool_windows(
    patches: Tensor, prefix: int, pitch: int, height: int, width: int, out_height: int, out_width: int
) -> Tensor:
    """patches [F, N, C], any strides -> [F, out_height * out_width, C], the patches' dtype."""
    frames, _, channels = patches.shape
    content = patches.new_empty(frames, out_height * out_width, channels)
    if content.numel() == 0:
        return content
    window = pool_window(pitch, height, width, out_height, out_width)
    cells, columns_ = cell_tile(window.out_width, window.longest_x, ROWS)
    programs = frames * window.out_height * triton.cdiv(window.out_width, cells)
    with torch.cuda.device_of(patches):
        adaptive_pool_kernel[programs, triton.cdiv(channels, CHANNELS)](
            patches[:, prefix:], content, *patches.stride(), channels, window,
            CELLS=cells, SPAN=columns_, BC=CHANNELS, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return content


def pool_windows_backward(
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
    window = pool_window(pitch, height, width, out_height, out_width)
    rows = pow2(window.width, 1, ROWS)
    programs = frames * window.height * triton.cdiv(window.width, rows)
    with torch.cuda.device_of(grad):
        adaptive_pool_backward_kernel[programs, triton.cdiv(channels, CHANNELS)](
            grad, grad_patches[:, prefix:], *grad.stride(), tokens * channels, channels, window,
            TOKENS=rows, BC=CHANNELS, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return grad_patches
