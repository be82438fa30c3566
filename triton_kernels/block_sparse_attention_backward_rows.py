"""block_sparse_attention backward over query rows: what every row needs of its output, and the gradient of q.

With p = exp(s - lse), dp = grad_out . v and delta = sum(grad_out * out) - grad_lse: ds = p (dp - delta), grad_q = scale ds K.
In fp32 the rounding of a large lse would scale whole rows of p: their sums are taken again, and divided by.
"""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.block_sparse_attention_call import Call
from longreel.triton_kernels.block_sparse_attention_config import head_block, tile_config
from longreel.triton_kernels.block_sparse_attention_walk import (
    LOG2_E,
    RUN,
    TILE,
    clipped,
    fetch,
    first_seen,
    key_rows,
    partial_step,
    parts,
    read,
    seen_by,
    write,
)
from torch import Tensor

DELTA_ROWS = 32


@triton.jit
def block_sparse_delta_kernel(
    out, grad_out, lse, grad_lse, delta,
    o_b, o_r, o_h, o_d, g_b, g_r, g_h, g_d, gl_b, gl_h, gl_r, queries, heads,
    UPCAST: tl.constexpr, HEAD: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """delta fp32 [B, H, Sq]; 0 for a row that sees nothing."""
    blocks = tl.cdiv(queries, BM)
    pid = (tl.program_id(0) // blocks).to(tl.int64)
    h = pid % heads
    b = pid // heads
    # [BM], [BD]
    r = tl.program_id(0) % blocks * BM + tl.arange(0, BM)
    m_r = r < queries
    d = tl.arange(0, BD).to(tl.int64)
    # [BM, BD]
    b_out = read(out + b * o_b + h * o_h + d * o_d, r, o_r, m_r, HEAD, BD, UPCAST).to(tl.float32)
    b_grad = read(grad_out + b * g_b + h * g_h + d * g_d, r, g_r, m_r, HEAD, BD, UPCAST).to(tl.float32)
    total = tl.sum(b_out * b_grad, axis=1)
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
    HEAD: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Programs as in the forward kernel. Fills factor fp32 [B, H, Sq], 1 / sum of p, where it is given; NEED: grad_q."""
    h = (tl.program_id(0) % heads).to(tl.int64)
    pid = tl.program_id(0) // heads
    tile = tiles + tl.load(order + pid // samples // blocks).to(tl.int64) * TILE
    sample = tl.load(tile).to(tl.int64)
    b = sample + pid % samples
    first = tl.load(tile + 1) + pid // samples % blocks * BM
    last = tl.load(tile + 2)
    if first >= last:
        return

    # [BM], [BD]
    r = first + tl.arange(0, BM)
    m_r = r < last
    d = tl.arange(0, BD).to(tl.int64)
    # [BM, BD]
    b_q = read(q + b * q_b + h * q_h + d * q_d, r, q_r, m_r, HEAD, BD, UPCAST)
    b_grad = read(grad_out + b * g_b + h * g_h + d * g_d, r, g_r, m_r, HEAD, BD, UPCAST)
    row = (b * heads + h) * queries
    b_lse = fetch(lse + row + r, m_r) * LOG2_E
    b_delta = fetch(delta + row + r, m_r)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, BD], tl.float32)

    own = bounds + (sample * queries + r) * 4
    seen = tl.load(start + b * start_b)
    p_k = k + b * k_b + h // group * k_h + d * k_d
    p_v = v + b * v_b + h // group * v_h + d * v_d
    begin, full_begin, full_end, end = clipped(tile + 4, seen)
    total, acc = walk_back(
        b_q, b_grad, b_lse, b_delta, p_k, p_v, k_r, v_r, global_index, own, m_r,
        begin, full_begin, full_end, end, total, acc, scale * LOG2_E,
        NEED, factor is not None, False, UPCAST, HEAD, BD, BN,
    )  # fmt: skip
    if GLOBAL:
        index = global_index + b * index_b
        if not GATHER:
            p_k = global_k + b * gk_b + h // group * gk_h + d * gk_d
            p_v = global_v + b * gv_b + h // group * gv_h + d * gv_d
            k_r = gk_r
            v_r = gv_r
        begin, full_begin, full_end, end = clipped(tile + 4 + RUN, first_seen(index, places, seen))
        total, acc = walk_back(
            b_q, b_grad, b_lse, b_delta, p_k, p_v, k_r, v_r, index, own + 2, m_r,
            begin, full_begin, full_end, end, total, acc, scale * LOG2_E,
            NEED, factor is not None, GATHER, UPCAST, HEAD, BD, BN,
        )  # fmt: skip
    acc = acc * scale
    if factor is not None:
        share = 1.0 / tl.where(total > 0, total, 1.0)
        tl.store(factor + row + r, share, mask=m_r)
        acc = acc * share[:, None]
    if NEED:
        write(grad_q + (b * queries * heads + h) * HEAD, acc, r, heads * HEAD, m_r, HEAD, BD)


@triton.jit
def walk_back(
    q, grad, lse, delta, p_k, p_v, k_r, v_r, index, own, m_r,
    begin, full_begin, full_end, end, total, acc, log2_scale,
    NEED: tl.constexpr, SUM: tl.constexpr, GATHER: tl.constexpr, UPCAST: tl.constexpr,
    HEAD: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Take the rows of `q` through one run of keys; `own` points at their two bounds in it."""
    n = tl.arange(0, BN)
    head, tail, partial = parts(begin, full_begin, full_end, end, BN)
    for at in range(full_begin, tail, BN):
        rows = key_rows(index, at + n, None, GATHER)
        k = read(p_k, rows, k_r, None, HEAD, BD, UPCAST)
        v = read(p_v, rows, v_r, None, HEAD, BD, UPCAST)
        total, acc = absorb_back(q, grad, lse, delta, k, v, None, total, acc, log2_scale, NEED, SUM)
    # [BM]
    lo = fetch(own, m_r)
    hi = fetch(own + 1, m_r)
    for i in range(0, partial):
        at, stop = partial_step(i, head, begin, full_begin, tail, end, BN)
        m_n = at + n < stop
        rows = key_rows(index, at + n, m_n, GATHER)
        k = read(p_k, rows, k_r, m_n, HEAD, BD, UPCAST)
        v = read(p_v, rows, v_r, m_n, HEAD, BD, UPCAST)
        seen = seen_by(lo, hi, at + n, stop)
        total, acc = absorb_back(q, grad, lse, delta, k, v, seen, total, acc, log2_scale, NEED, SUM)
    return total, acc


@triton.jit
def absorb_back(q, grad, lse, delta, k, v, seen, total, acc, log2_scale, NEED: tl.constexpr, SUM: tl.constexpr):
    """The gradient of q from one more tile of keys; lse in units of log 2."""
    # [BM, BN]
    p = tl.exp2(tl.dot(q, tl.trans(k), input_precision="ieee") * log2_scale - lse[:, None])
    if seen is not None:
        p = tl.where(seen, p, 0.0)
    if SUM:
        total += tl.sum(p, axis=1)
    if NEED:
        ds = p * (tl.dot(grad, tl.trans(v), input_precision="ieee") - delta[:, None])
        acc = tl.dot(ds.to(k.dtype), k, acc, input_precision="ieee")
    return total, acc


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
            UPCAST=call.upcast, HEAD=head, BD=head_block(head), BM=DELTA_ROWS, num_warps=4,
        )  # fmt: skip
        if need or factor is not None:
            block_sparse_rows_kernel[(call.tiles.shape[0] * blocks * call.samples * heads,)](
                call.q, *call.keys, call.bounds, call.tiles, call.order, grad_out, lse, delta, factor, grad_q,
                *call.q.stride(), *call.key_strides, *grad_out.stride(),
                call.scale, queries, heads, call.group, call.samples, blocks, call.places,
                NEED=need, GLOBAL=call.places > 0, GATHER=call.global_k is None, UPCAST=call.upcast,
                HEAD=head, BD=head_block(head), BM=config.rows, BN=config.keys,
                num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
            )  # fmt: skip
    return delta, factor, grad_q
