"""The second sweep of the forward pass: sums over a frame's tokens, weighted for the context, plain for the pooled cells."""

import triton
import triton.language as tl
from longreel.triton_kernels.common.launch import pow2
from longreel.triton_kernels.common.pool_window import PoolWindow, columns, span
from torch import Tensor

SWEEP_TOKENS = tl.constexpr(32)  # of a step of the sweep by products
MOST_COLUMNS = 64  # of that product: cells, and two for the weights
MOST_TOKENS = 1 << 20  # in fp32, n + 1/2 by a whole number is on the right side of the next one


def product_columns(patches: Tensor, window: PoolWindow | None, fused: bool) -> int:
    """Columns of `sums_by_products` for one prompt; 0 where other loops make the sums: fp32, cells that overlap or are many."""
    needed = 2 if window is None else window.out_height * window.out_width + 2
    fits = needed <= MOST_COLUMNS and patches.shape[-2] <= MOST_TOKENS and (window is None or fused)
    return pow2(needed, 16, MOST_COLUMNS) if fits and patches.element_size() == 2 else 0


@triton.jit
def quotient(n, by):
    """n // by of small numbers, see MOST_TOKENS: a division takes twenty instructions."""
    return ((n.to(tl.float32) + 0.5) * (1.0 / tl.cast(by, tl.float32))).to(tl.int32)


@triton.jit
def sums_by_products(
    patches, p_x, p_content, p_weights, p_context, o_c, count, channels, window, GAIN: tl.constexpr, UPCAST: tl.constexpr,
    COLUMNS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Context of one prompt, and cells where each token lies in one, for channels o_c, as one product; or False, and nothing
    is stored: 0 times what is no finite number would be a NaN in every cell of the frame.

    A column is 1 at a cell's tokens; the last two are the weights, rounded and what the rounding left.
    """
    m_c = o_c < channels
    j = tl.arange(0, COLUMNS)
    cells = 0
    if window is not None:
        cells = window.out_height * window.out_width
    # [BC, COLUMNS]
    acc = tl.zeros([BC, COLUMNS], tl.float32)
    for t in range(0, count, SWEEP_TOKENS):
        n = t + tl.arange(0, SWEEP_TOKENS)
        m_n = n < count
        p_tile = p_x + n.to(tl.int64)[:, None] * patches.token + o_c.to(tl.int64)[None, :] * patches.channel
        b_x = tl.load(p_tile, mask=m_n[:, None] & m_c[None, :], other=0.0)
        if UPCAST:
            b_x = b_x.to(tl.float32)
        w = tl.load(p_weights + n, mask=m_n, other=0.0, cache_modifier=".cg") * GAIN
        high = w.to(b_x.dtype)
        low = (w - high.to(tl.float32)).to(b_x.dtype)
        b_w = tl.where(j[None, :] == cells, high[:, None], tl.where(j[None, :] == cells + 1, low[:, None], 0.0))
        if window is not None:
            y = quotient(n, window.width)
            cell = quotient(y, window.y_size) * window.out_width + quotient(n - y * window.width, window.x_size)
            b_w = tl.where(j[None, :] == cell[:, None], 1.0, b_w)
        acc = tl.dot(tl.trans(b_x), b_w.to(b_x.dtype), acc, input_precision="ieee")
    # of one dimension: what Triton 3.6 makes of a maximum of maxima does not compile for Blackwell
    wrong = tl.reshape((tl.abs(acc) < float("inf")).to(tl.int32) ^ 1, [BC * COLUMNS])
    finite = tl.max(wrong, axis=0) == 0
    if finite:
        if window is not None:
            p_cell = p_content + j[None, :] * channels + o_c[:, None]
            mean = acc / tl.cast(window.y_size * window.x_size, tl.float32)
            tl.store(p_cell, mean, mask=(j < cells)[None, :] & m_c[:, None])
        b_context = tl.sum(tl.where((j >= cells)[None, :], acc, 0.0), axis=1) / GAIN
        tl.store(p_context + o_c, b_context, mask=m_c)
    return finite


@triton.jit
def average_tokens(patches, p_c, p_weights, p_context, o_c, count, channels, ROWS: tl.constexpr, BC: tl.constexpr):
    """context = sum over tokens of weights[n] x_n, for channels o_c; `p_c` [BC] points at them in token 0."""
    m_c = o_c < channels
    # [ROWS, BC]
    acc = tl.zeros([ROWS, BC], tl.float32)
    for t in range(0, count, ROWS):
        n = t + tl.arange(0, ROWS)
        m_n = n < count
        w = tl.load(p_weights + n, mask=m_n, other=0.0, cache_modifier=".cg")
        p_x = p_c[None, :] + n.to(tl.int64)[:, None] * patches.token
        acc += w[:, None] * tl.load(p_x, mask=m_n[:, None] & m_c[None, :], other=0.0).to(tl.float32)
    tl.store(p_context + o_c, tl.sum(acc, axis=0), mask=m_c)


@triton.jit
def average_cells(
    patches, p_c, p_content, p_weights, p_context, o_c, channels, window,
    FUSED: tl.constexpr, BC: tl.constexpr, CELLS: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """content = the average of every cell, for channels o_c. FUSED: one prompt, and each token lies in one cell, so that
    the same tiles give the context."""
    m_c = o_c < channels
    # [CELLS * SPAN, BC]
    acc = tl.zeros([CELLS * SPAN, BC], tl.float32)
    for first in range(0, window.out_width, CELLS):
        # [CELLS * SPAN]
        t, t_end = columns(first, window, CELLS, SPAN)
        # [CELLS]
        j = first + tl.arange(0, CELLS)
        x0, x1 = span(j, window.x_size, window.x_out)
        for i in range(0, window.out_height):
            y0, y1 = span(i, window.y_size, window.y_out)
            # [CELLS, BC]
            cell = tl.zeros([CELLS, BC], tl.float32)
            for y in range(y0, y1):
                for dx in range(0, window.longest_x, SPAN):
                    n = y * window.pitch + t + dx
                    m_n = t + dx < t_end
                    p_x = p_c[None, :] + n.to(tl.int64)[:, None] * patches.token
                    b_x = tl.load(p_x, mask=m_n[:, None] & m_c[None, :], other=0.0).to(tl.float32)
                    cell += tl.sum(tl.reshape(b_x, [CELLS, SPAN, BC]), axis=1)
                    if FUSED:
                        w = tl.load(p_weights + n, mask=m_n, other=0.0, cache_modifier=".cg")
                        acc += w[:, None] * b_x
            area = ((y1 - y0) * (x1 - x0)).to(tl.float32)
            p_cell = p_content + (tl.cast(i, tl.int64) * window.out_width + j)[:, None] * channels + o_c[None, :]
            tl.store(p_cell, cell / area[:, None], mask=(j < window.out_width)[:, None] & m_c[None, :])
    if FUSED:
        tl.store(p_context + o_c, tl.sum(acc, axis=0), mask=m_c)
