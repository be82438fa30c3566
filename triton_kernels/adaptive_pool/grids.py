"""Pictures of frames: linear interpolation in space, averages over time, and packed pictures each with a grid of its own.

The reverse of a cell's tokens is a token's cells, so that nothing is added from two sides: sums run in one order.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.common.launch import pow2
from longreel.triton_kernels.common.pool_window import cell_tile, span
from torch import Tensor

ROWS = 16  # token rows of one tile
CHANNELS = 256  # channels of one tile
WARPS = 4
# sizes of pictures compile nothing anew
VARYING = ("frames", "out_frames", "most", "longest")


class PictureSizes(NamedTuple):
    """Of frames [F, N, C] as kernels take them, the numbers as in a row of the packed pictures' table."""

    pitch: int
    height: int
    width: int
    out_height: int
    out_width: int


class PoolLaunch(NamedTuple):
    """pictures: how many; sizes: (frames, height, width, out_frames, out_height, out_width) of those that differ; window: None
    where pictures are packed, whose table has their sizes. Otherwise each frame is a picture, or all `frames` are one."""

    pictures: int
    sizes: tuple[tuple[int, ...], ...]
    window: PictureSizes | None
    frames: int
    out_frames: int
    table: Tensor | None


@triton.jit
def taps(index, size, out, BILINEAR: tl.constexpr):
    """First token and end of those that cell `index` of `out` is made of, and the second's share."""
    if BILINEAR:
        # in 1 / (2 * out)
        place = tl.maximum((2 * index + 1) * size - out, 0)
        low = place // (2 * out)
        share = (place - low * 2 * out).to(tl.float32) / (2.0 * out)
        share = tl.where(low + 1 < size, share, 0.0)
        end = low + 1 + (share > 0).to(tl.int32)
    else:
        low, end = span(index, size, out)
        share = 0.0
    return low, end, share


@triton.jit
def cells(token, size, out, BILINEAR: tl.constexpr):
    """First cell and end of those that token `token` of `size` is part of."""
    if BILINEAR:
        begin = (tl.maximum(out * (2 * token - 1) - size, 0) + 2 * size - 1) // (2 * size)
        end = tl.minimum((out * (2 * token + 3) + size - 1) // (2 * size), out)
    else:
        begin, end = span(token, out, size)
    return begin, end


@triton.jit
def picture(table, number, window, all_frames, all_out_frames, PACKED: tl.constexpr):
    """First token, first cell, pitch and sizes of a picture."""
    if PACKED:
        row = table + number * 8
        first, to = tl.load(row), tl.load(row + 1)
        frames, height, width = (
            tl.load(row + 2).to(tl.int32),
            tl.load(row + 3).to(tl.int32),
            tl.load(row + 4).to(tl.int32),
        )
        out_frames, out_height = tl.load(row + 5).to(tl.int32), tl.load(row + 6).to(tl.int32)
        out_width = tl.load(row + 7).to(tl.int32)
        pitch = width
    else:
        first = number.to(tl.int64)
        frames, height, width, pitch = all_frames, window.height, window.width, window.pitch
        out_frames, out_height, out_width = all_out_frames, window.out_height, window.out_width
        to = first * out_frames * out_height * out_width
    return first, to, pitch, frames, height, width, out_frames, out_height, out_width


@triton.jit(do_not_specialize=VARYING)
def pool_grids_kernel(
    x, content, table, x_frame, x_token, x_channel, channels, window, frames, out_frames, most, longest,
    CELLS: tl.constexpr, SPAN: tl.constexpr, BC: tl.constexpr, BILINEAR: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """One program: CELLS neighbouring cells of one row of cells of a picture, BC channels. `most`: such tiles of a picture."""
    number, tile = tl.program_id(0) // most, tl.program_id(0) % most
    first, to, pitch, frames, height, width, out_frames, out_height, out_width = picture(
        table, number, window, frames, out_frames, PACKED
    )  # fmt: skip
    if PACKED:
        start, step = first * x_token, height.to(tl.int64) * width * x_token
    else:
        start, step = first * x_frame, first * 0 + x_frame
    tiles = tl.cdiv(out_width, CELLS)
    # row of cells, counted over the picture's frames
    row = tile // tiles
    if row < out_frames * out_height:
        k, i = row // out_height, row % out_height
        t0, t1 = span(k, frames, out_frames)
        y0, y1, y_share = taps(i, height, out_height, BILINEAR)
        # [CELLS * SPAN]
        r = tl.arange(0, CELLS * SPAN)
        j_r = tile % tiles * CELLS + r // SPAN
        x0, x1, x_share = taps(j_r, width, out_width, BILINEAR)
        x1 = tl.where(j_r < out_width, x1, 0)
        # [BC]
        o_c = tl.program_id(1) * BC + tl.arange(0, BC)
        m_c = o_c < channels
        p_x = x + start + o_c.to(tl.int64) * x_channel

        # [CELLS, BC]
        acc = tl.zeros([CELLS, BC], tl.float32)
        for t in range(t0, t1):
            p_t = p_x + t * step
            for y in range(y0, y1):
                for dx in range(0, longest, SPAN):
                    column = x0 + r % SPAN + dx
                    token = (y * pitch + column).to(tl.int64)
                    # [CELLS * SPAN, BC]
                    b_x = tl.load(
                        p_t[None, :] + token[:, None] * x_token, mask=(column < x1)[:, None] & m_c[None, :], other=0.0
                    ).to(tl.float32)
                    if BILINEAR:
                        weight = tl.where(y == y0, 1 - y_share, y_share) * tl.where(column == x0, 1 - x_share, x_share)
                        b_x = b_x * weight[:, None]
                    acc += tl.sum(tl.reshape(b_x, [CELLS, SPAN, BC]), axis=1)

        # [CELLS]
        j = tile % tiles * CELLS + tl.arange(0, CELLS)
        area = (t1 - t0 + j * 0).to(tl.float32)
        if not BILINEAR:
            x0, x1 = span(j, width, out_width)
            area = area * ((y1 - y0) * (x1 - x0)).to(tl.float32)
        p_content = content + (to + row * out_width + j)[:, None] * channels + o_c[None, :]
        tl.store(p_content, acc / area[:, None], mask=(j < out_width)[:, None] & m_c[None, :])


@triton.jit(do_not_specialize=VARYING)
def pool_grids_backward_kernel(
    dcontent, dx, table, g_frame, g_cell, g_channel, dx_frame, channels, window, frames, out_frames, most, longest,
    TOKENS: tl.constexpr, BC: tl.constexpr, BILINEAR: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """One program: TOKENS neighbouring tokens of one row of a picture, BC channels. dx is dense in tokens."""
    number, tile = tl.program_id(0) // most, tl.program_id(0) % most
    first, to, pitch, frames, height, width, out_frames, out_height, out_width = picture(
        table, number, window, frames, out_frames, PACKED
    )  # fmt: skip
    if PACKED:
        start, step = to * g_cell, out_height.to(tl.int64) * out_width * g_cell
        dx_start, dx_step = first * channels, height.to(tl.int64) * width * channels
    else:
        start, step = first * g_frame, first * 0 + g_frame
        dx_start, dx_step = first * dx_frame, first * 0 + dx_frame
    tiles = tl.cdiv(width, TOKENS)
    row = tile // tiles
    if row < frames * height:
        t, y = row // height, row % height
        # [TOKENS]
        column = tile % tiles * TOKENS + tl.arange(0, TOKENS)
        k0, k1 = span(t, out_frames, frames)
        i0, i1 = cells(y, height, out_height, BILINEAR)
        j0, j1 = cells(column, width, out_width, BILINEAR)
        j1 = tl.where(column < width, j1, 0)
        # [BC]
        o_c = tl.program_id(1) * BC + tl.arange(0, BC)
        m_c = o_c < channels
        p_d = dcontent + start + o_c.to(tl.int64) * g_channel

        # [TOKENS, BC]
        acc = tl.zeros([TOKENS, BC], tl.float32)
        for k in range(k0, k1):
            t0, t1 = span(k, frames, out_frames)
            p_k = p_d + k * step
            for i in range(i0, i1):
                y0, y1, y_share = taps(i, height, out_height, BILINEAR)
                for dj in range(0, longest):
                    j = j0 + dj
                    x0, x1, x_share = taps(j, width, out_width, BILINEAR)
                    cell = (i * out_width + j).to(tl.int64)
                    b_d = tl.load(
                        p_k[None, :] + cell[:, None] * g_cell, mask=(j < j1)[:, None] & m_c[None, :], other=0.0
                    ).to(tl.float32)
                    if BILINEAR:
                        # a cell that begins a whole token further has no part in this one
                        weight = tl.where(y == y0, 1 - y_share, tl.where(y < y1, y_share, 0.0))
                        weight = weight * tl.where(column == x0, 1 - x_share, tl.where(column < x1, x_share, 0.0))
                        weight = weight / (t1 - t0)
                    else:
                        weight = 1.0 / ((t1 - t0) * (y1 - y0) * (x1 - x0)).to(tl.float32)
                    acc += b_d * weight[:, None]

        p_dx = dx + dx_start + t * dx_step
        p_dx = p_dx + (y * pitch + column).to(tl.int64)[:, None] * channels + o_c[None, :]
        tl.store(p_dx, acc, mask=(column < width)[:, None] & m_c[None, :])


def _sixes(grids: tuple[int, ...]) -> list[tuple[int, ...]]:
    """(frames, height, width, out_frames, out_height, out_width) of every picture."""
    return [grids[at : at + 6] for at in range(0, len(grids), 6)]


@lru_cache(maxsize=16)
def _table(grids: tuple[int, ...], device: torch.device) -> Tensor:
    """int64 [pictures, 8]: first token, first cell, then the six sizes; made once for the grids of a run."""
    rows, token, cell = [], 0, 0
    for t, h, w, out_t, out_h, out_w in _sixes(grids):
        rows.append((token, cell, t, h, w, out_t, out_h, out_w))
        token, cell = token + t * h * w, cell + out_t * out_h * out_w
    return torch.tensor(rows, dtype=torch.int64, device=device)


def _launch(
    device: torch.device, frames: int, window: tuple[int, ...], out_frames: int, grids: tuple[int, ...]
) -> PoolLaunch:
    if grids:
        sizes, pictures, table = tuple(dict.fromkeys(_sixes(grids))), len(grids) // 6, _table(grids, device)
    else:
        time, pictures = ((frames, out_frames), 1) if out_frames else ((1, 1), frames)
        _, _, height, width, out_height, out_width = window
        sizes, table = ((time[0], height, width, time[1], out_height, out_width),), None
    for one in sizes:
        for size, out in zip(one[:3], one[3:], strict=True):
            # positions in halves of a cell
            if (2 * max(size, out) + 3) * max(size, out) >= 2**31:
                raise ValueError(f"{size} tokens to {out} cells along an axis: more than 32-bit ranges hold")
    if table is not None:
        return PoolLaunch(pictures, sizes, None, 0, 0, table)
    _, pitch, height, width, out_height, out_width = window
    return PoolLaunch(pictures, sizes, PictureSizes(pitch, height, width, out_height, out_width), *time, None)


def pool_grids(
    patches: Tensor, window: tuple[int, ...], out_frames: int, bilinear: bool, grids: tuple[int, ...]
) -> Tensor:
    """patches [F, N, C] or packed [total, C] -> [F or out_frames, n, C] or packed [cells, C]."""
    channels, packed = patches.shape[-1], patches.dim() == 2
    if packed:
        content = patches.new_empty(sum(t * h * w for _, _, _, t, h, w in _sixes(grids)), channels)
    else:
        content = patches.new_empty(out_frames or patches.shape[0], window[4] * window[5], channels)
    if content.numel() == 0:
        return content
    launch = _launch(patches.device, patches.shape[0], window, out_frames, grids)
    longest = max(2 if bilinear else (w + 2 * out_w - 2) // out_w for _, _, w, _, _, out_w in launch.sizes)
    count, columns = cell_tile(max(one[5] for one in launch.sizes), longest, ROWS)
    most = max(out_t * out_h * triton.cdiv(out_w, count) for *_, out_t, out_h, out_w in launch.sizes)
    strides = (0, *patches.stride()) if packed else patches.stride()
    with torch.cuda.device_of(patches):
        pool_grids_kernel[launch.pictures * most, triton.cdiv(channels, CHANNELS)](
            patches if packed else patches[:, window[0] :], content, launch.table, *strides, channels,
            launch.window, launch.frames, launch.out_frames, most, longest,
            CELLS=count, SPAN=columns, BC=CHANNELS, BILINEAR=bilinear, PACKED=packed, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return content


def pool_grids_backward(
    grad: Tensor,
    tokens: int,
    window: tuple[int, ...],
    out_frames: int,
    bilinear: bool,
    grids: tuple[int, ...],
    frames: int,
) -> Tensor:
    """grad [F or out_frames, n, C] or packed [cells, C] -> the gradient of the patches [F, tokens, C] or packed [tokens, C]."""
    channels, packed = grad.shape[-1], grad.dim() == 2
    frames = frames if out_frames else grad.shape[0]
    grad_patches = grad.new_empty((tokens, channels) if packed else (frames, tokens, channels))
    prefix, _, height, width, *_ = window
    if not packed:
        grad_patches[:, :prefix].zero_()
        if height * width < tokens - prefix:
            grad_patches[:, prefix:].zero_()
    if grad.numel() == 0 or grad_patches.numel() == 0:
        return grad_patches
    launch = _launch(grad.device, frames, window, out_frames, grids)
    # cells that share a column, at most
    longest = max((2 if bilinear else 1) * (triton.cdiv(out_w, w) + 1) for _, _, w, _, _, out_w in launch.sizes)
    rows = pow2(max(one[2] for one in launch.sizes), 1, ROWS)
    most = max(t * h * triton.cdiv(w, rows) for t, h, w, *_ in launch.sizes)
    strides = (0, *grad.stride()) if packed else grad.stride()
    with torch.cuda.device_of(grad):
        pool_grids_backward_kernel[launch.pictures * most, triton.cdiv(channels, CHANNELS)](
            grad, grad_patches if packed else grad_patches[:, prefix:], launch.table, *strides, tokens * channels, channels,
            launch.window, launch.frames, launch.out_frames, most, longest,
            TOKENS=rows, BC=CHANNELS, BILINEAR=bilinear, PACKED=packed, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return grad_patches
