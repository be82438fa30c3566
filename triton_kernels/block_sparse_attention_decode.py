"""block_sparse_attention for few query rows over long keys: the keys of a tile split over programs, merged in their order.

Bound by one read of the keys: a program holds the rows of every query head that shares its key head, and masks each step.
"""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.block_sparse_attention_call import Call
from longreel.triton_kernels.block_sparse_attention_config import head_constants, splits, tile_config
from longreel.triton_kernels.block_sparse_attention_head import plus, read, scaled, write, zeros
from longreel.triton_kernels.block_sparse_attention_walk import (
    LN_2,
    LOG2_E,
    LOWEST,
    RUN,
    TILE,
    absorb,
    clipped,
    fetch,
    first_seen,
    key_head,
    key_rows,
    read_keys,
    seen_by,
)
from torch import Tensor

MERGE_ROWS = 4


@triton.jit
def block_sparse_decode_kernel(
    q, k, v, global_k, global_v, global_index, start, bounds, tiles, order, sums, tops, totals,
    q_b, q_r, q_h, q_d, k_b, k_r, k_h, k_d, v_b, v_r, v_h, v_d,
    gk_b, gk_r, gk_h, gk_d, gv_b, gv_r, gv_h, gv_d, index_b, start_b,
    scale, batch, queries, kv_heads, group, samples, blocks, places, splits,
    GLOBAL: tl.constexpr, GATHER: tl.constexpr, UPCAST: tl.constexpr,
    HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """sums fp32 [splits, B, Sq, H, D], tops and totals fp32 [splits, B, Sq, H]: the softmax over one part of the keys."""
    split = tl.program_id(0) % splits
    hk = (tl.program_id(0) // splits % kv_heads).to(tl.int64)
    pid = tl.program_id(0) // splits // kv_heads
    tile = tiles + tl.load(order + pid // samples // blocks).to(tl.int64) * TILE
    sample = tl.load(tile).to(tl.int64)
    b = sample + pid % samples
    # [BM], row-major over rows and the heads of a group
    i = pid // samples % blocks * BM + tl.arange(0, BM)
    r = tl.load(tile + 1) + i // group
    h = hk * group + i % group
    m_r = r < tl.load(tile + 2)
    # [BN]
    n = tl.arange(0, BN)
    b_q = read(q + b * q_b, q_d, r.to(tl.int64) * q_r + h * q_h, 1, m_r, HEAD, BD, TAIL, UPCAST)
    own = bounds + (sample * queries + r) * 4
    lo = fetch(own, m_r)
    hi = fetch(own + 1, m_r)
    part = tl.full([BM], LOWEST, tl.float32), tl.zeros([BM], tl.float32), zeros(BM, BD, TAIL)

    seen = tl.load(start + b * start_b)
    begin, _, _, end = clipped(tile + 4, seen)
    near = tl.cdiv(end - begin, BN)
    steps = near
    if GLOBAL:
        index = global_index + b * index_b
        far_begin, _, _, far_end = clipped(tile + 4 + RUN, first_seen(index, places, seen))
        steps += tl.cdiv(far_end - far_begin, BN)
    share = tl.cdiv(steps, splits)
    first = split * share
    last = tl.minimum(first + share, steps)

    keys = key_head(k, v, b, hk, k_b, k_r, k_h, k_d, v_b, v_r, v_h, v_d)
    for step in range(first, tl.minimum(last, near)):
        key = begin + step * BN + n
        m_n = key < end
        b_k, b_v = read_keys(keys, key, m_n, HEAD, BD, TAIL, UPCAST)
        part = absorb((b_q,), b_k, b_v, seen_by(lo, hi, key, end), part, scale * LOG2_E)
    if GLOBAL:
        lo = fetch(own + 2, m_r)
        hi = fetch(own + 3, m_r)
        if not GATHER:
            keys = key_head(global_k, global_v, b, hk, gk_b, gk_r, gk_h, gk_d, gv_b, gv_r, gv_h, gv_d)
        for step in range(tl.maximum(first, near), last):
            key = far_begin + (step - near) * BN + n
            m_n = key < far_end
            b_k, b_v = read_keys(keys, key_rows(index, key, m_n, GATHER), m_n, HEAD, BD, TAIL, UPCAST)
            part = absorb((b_q,), b_k, b_v, seen_by(lo, hi, key, far_end), part, scale * LOG2_E)

    heads = kv_heads * group
    row = (split * batch + b) * queries * heads + r * heads + h
    top, total, acc = part
    write(sums, acc, row, HEAD, m_r, HEAD, BD, TAIL)
    tl.store(tops + row, top, mask=m_r)
    tl.store(totals + row, total, mask=m_r)


@triton.jit
def block_sparse_decode_merge_kernel(
    sums, tops, totals, out, lse, rows, queries, heads, splits,
    HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """out, lse from `splits` parts of `rows` = B * Sq * H rows each, added in their order."""
    # [BM]
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    m_r = row < rows
    row = row.to(tl.int64)
    top = tl.full([BM], LOWEST, tl.float32)
    for split in range(0, splits):
        top = tl.maximum(top, tl.load(tops + tl.cast(split, tl.int64) * rows + row, mask=m_r, other=0.0))
    total = tl.zeros([BM], tl.float32)
    acc = zeros(BM, BD, TAIL)
    for split in range(0, splits):
        at = tl.cast(split, tl.int64) * rows + row
        kept = tl.exp2(tl.load(tops + at, mask=m_r, other=0.0) - top)
        total += kept * tl.load(totals + at, mask=m_r, other=0.0)
        acc = plus(acc, scaled(read(sums, 1, at, HEAD, m_r, HEAD, BD, TAIL, False), kept))
    some = total > 0
    share = tl.where(some, total, 1.0)
    write(out, scaled(acc, 1.0 / share), row, HEAD, m_r, HEAD, BD, TAIL)
    h = row % heads
    b = row // heads // queries
    p_lse = lse + (b * heads + h) * queries + row // heads % queries
    tl.store(p_lse, tl.where(some, top * LN_2 + tl.log(share), float("-inf")), mask=m_r)


def decode(call: Call) -> tuple[Tensor, Tensor]:
    """out [B, Sq, H, D] in the dtype of q, lse fp32 [B, H, Sq]; both contiguous."""
    batch, queries, heads, head = call.q.shape
    kv_heads = heads // call.group
    out = call.q.new_empty(batch, queries, heads, head)
    lse = call.q.new_empty(batch, heads, queries, dtype=torch.float32)
    packed = min(call.tile_rows, queries) * call.group
    shared, processors = call.card
    config = tile_config("decode", head, call.q.element_size(), packed, call.tile_keys, shared)
    blocks = triton.cdiv(packed, config.rows)
    programs = call.tiles.shape[0] * blocks * call.samples * kv_heads
    parts = splits(call.k.shape[1] + call.places, programs, processors)
    sums = lse.new_empty(parts, batch, queries, heads, head)
    tops, totals = lse.new_empty(2, parts, batch, queries, heads)
    sizes = head_constants(head)
    with torch.cuda.device_of(call.q):
        block_sparse_decode_kernel[(programs * parts,)](
            call.q, *call.keys, call.bounds, call.tiles, call.order, sums, tops, totals,
            *call.q.stride(), *call.key_strides,
            call.scale, batch, queries, kv_heads, call.group, call.samples, blocks, call.places, parts,
            GLOBAL=call.places > 0, GATHER=call.global_k is None, UPCAST=call.upcast,
            BM=config.rows, BN=config.keys, **sizes,
            num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
        block_sparse_decode_merge_kernel[(triton.cdiv(lse.numel(), MERGE_ROWS),)](
            sums, tops, totals, out, lse, lse.numel(), queries, heads, parts, BM=MERGE_ROWS, **sizes, num_warps=4,
        )  # fmt: skip
    return out, lse
