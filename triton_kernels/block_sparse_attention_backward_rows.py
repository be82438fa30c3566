"""block_sparse_attention backward over query rows: what every row needs of its output, and the gradient of q.

With p = exp(s - lse), dp = grad_out . v and delta = sum(grad_out * out) - grad_lse: ds = p (dp - delta), grad_q = scale ds K.
In fp32 the rounding of a large lse would scale whole rows of p: their sums are taken again, and divided by.
"""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.block_sparse_attention_call import Call
from longreel.triton_kernels.block_sparse_attention_config import head_constants, tile_config
from longreel.triton_kernels.block_sparse_attention_head import (
    inner,
    onto_head,
    over_head,
    read,
    scaled,
    write,
    zeros,
)
from longreel.triton_kernels.block_sparse_attention_walk import LOG2_E, fetch, key_head, query_block, walk_tile
from torch import Tensor

DELTA_ROWS = 32


@triton.jit
def block_sparse_delta_kernel(
    out, grad_out, lse, grad_lse, delta,
    o_b, o_r, o_h, o_d, g_b, g_r, g_h, g_d, gl_b, gl_h, gl_r, queries, heads,
    UPCAST: tl.constexpr, HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """delta fp32 [B, H, Sq]; 0 for a row that sees nothing."""
    blocks = tl.cdiv(queries, BM)
    pid = (tl.program_id(0) // blocks).to(tl.int64)
    h = pid % heads
    b = pid // heads
    # [BM]
    r = tl.program_id(0) % blocks * BM + tl.arange(0, BM)
    m_r = r < queries
    b_out = read(out + b * o_b + h * o_h, o_d, r, o_r, m_r, HEAD, BD, TAIL, UPCAST)
    b_grad = read(grad_out + b * g_b + h * g_h, g_d, r, g_r, m_r, HEAD, BD, TAIL, UPCAST)
    total = inner(b_out, b_grad)
    if grad_lse is not None:
        total -= tl.load(grad_lse + b * gl_b + h * gl_h + r.to(tl.int64) * gl_r, mask=m_r, other=0.0)
    alive = fetch(lse + pid * queries + r, m_r) > float("-inf")
    tl.store(delta + pid * queries + r, tl.where(alive, total, 0.0), mask=m_r)


@triton.jit
def block_sparse_rows_kernel(
    q, k, v, global_k, global_v, global_index, start, bounds, tiles, order, grad_out, lse, delta, factor, grad_q,
    q_b, q_r, q_h, q_d, k_b, k_r, k_h, k_d, v_b, v_r, v_h, v_d,
    gk_b, gk_r, gk_h, gk_d, gv_b, gv_r, gv_h, gv_d, index_b, start_b, g_b, g_r, g_h, g_d,
    scale, queries, heads, group, samples, blocks, places,
    NEED: tl.constexpr, GLOBAL: tl.constexpr, GATHER: tl.constexpr, UPCAST: tl.constexpr,
    HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Programs as in the forward kernel. Fills factor fp32 [B, H, Sq], 1 / sum of p, where it is given; NEED: grad_q."""
    h, b, sample, tile, first, last = query_block(tiles, order, heads, samples, blocks, BM)
    if first >= last:
        return

    # [BM]
    r = first + tl.arange(0, BM)
    m_r = r < last
    b_q = read(q + b * q_b + h * q_h, q_d, r, q_r, m_r, HEAD, BD, TAIL, UPCAST)
    b_grad = read(grad_out + b * g_b + h * g_h, g_d, r, g_r, m_r, HEAD, BD, TAIL, UPCAST)
    row = (b * heads + h) * queries + r
    b_lse = fetch(lse + row, m_r) * LOG2_E
    b_delta = fetch(delta + row, m_r)
    # Nothing is summed that nobody asks for.
    totals = ()
    if factor is not None:
        totals = (tl.zeros([BM], tl.float32),)
    acc = ()
    if NEED:
        acc = zeros(BM, BD, TAIL)
    near = key_head(k, v, b, h // group, k_b, k_r, k_h, k_d, v_b, v_r, v_h, v_d)
    far = near
    if not GATHER:
        far = key_head(global_k, global_v, b, h // group, gk_b, gk_r, gk_h, gk_d, gv_b, gv_r, gv_h, gv_d)
    totals, acc = walk_tile(
        absorb_back, (b_q, b_grad, b_lse, b_delta), (totals, acc), near, far, tile, bounds + (sample * queries + r) * 4, m_r,
        global_index + b * index_b, places, tl.load(start + b * start_b), scale * LOG2_E,
        GLOBAL, GATHER, UPCAST, HEAD, BD, TAIL, BN,
    )  # fmt: skip

    share = tl.full([BM], 1.0, tl.float32)
    if factor is not None:
        share = 1.0 / tl.where(totals[0] > 0, totals[0], 1.0)
        tl.store(factor + row, share, mask=m_r)
    if NEED:
        p_grad = grad_q + (b * queries * heads + h) * HEAD
        write(p_grad, scaled(acc, share * scale), r, heads * HEAD, m_r, HEAD, BD, TAIL)


@triton.jit
def absorb_back(queries, k, v, seen, sums, log2_scale):
    """The gradient of q from one more tile of keys, and the sums of p, each where it is not empty; lse in units of log 2."""
    q, grad, lse, delta = queries
    totals, acc = sums
    # [BM, BN]
    p = tl.exp2(over_head(q, k) * log2_scale - lse[:, None])
    if seen is not None:
        p = tl.where(seen, p, 0.0)
    if len(totals) > 0:
        totals = (totals[0] + tl.sum(p, axis=1),)
    if len(acc) > 0:
        ds = p * (over_head(grad, v) - delta[:, None])
        acc = onto_head(ds, k, acc)
    return totals, acc


def rows_backward(
    call: Call, grad_out: Tensor, grad_lse: Tensor | None, out: Tensor, lse: Tensor, need: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """delta fp32 [B, H, Sq], factor (fp32 inputs only) and the gradient of q [B, Sq, H, D], empty where it is not needed."""
    batch, queries, heads, head = call.q.shape
    delta = torch.empty_like(lse)
    factor = torch.empty_like(lse) if call.q.dtype == torch.float32 else None
    grad_q = call.q.new_empty((batch, queries, heads, head) if need else 0)
    config = tile_config("rows", head, call.q.element_size(), call.tile_rows, call.tile_keys, call.card[0])
    blocks = triton.cdiv(call.tile_rows, config.rows)
    with torch.cuda.device_of(call.q):
        block_sparse_delta_kernel[(batch * heads * triton.cdiv(queries, DELTA_ROWS),)](
            out, grad_out, lse, grad_lse, delta,
            *out.stride(), *grad_out.stride(), *((0, 0, 0) if grad_lse is None else grad_lse.stride()), queries, heads,
            UPCAST=call.upcast, **head_constants(head), BM=DELTA_ROWS, num_warps=4,
        )  # fmt: skip
        if need or factor is not None:
            block_sparse_rows_kernel[(call.tiles.shape[0] * blocks * call.samples * heads,)](
                call.q, *call.keys, call.bounds, call.tiles, call.order, grad_out, lse, delta, factor, grad_q,
                *call.q.stride(), *call.key_strides, *grad_out.stride(),
                call.scale, queries, heads, call.group, call.samples, blocks, call.places,
                NEED=need, GLOBAL=call.places > 0, GATHER=call.global_k is None, UPCAST=call.upcast,
                **head_constants(head), BM=config.rows, BN=config.keys,
                num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
            )  # fmt: skip
    return delta, factor, grad_q
