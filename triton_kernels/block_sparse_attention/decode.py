"""block_sparse_attention for few query rows over long keys: the keys of a tile split over programs, merged in their order.

Bound by one read of the keys: a program holds the rows of every query head that shares its key head, and masks each step.
"""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.block_sparse_attention.config import splits, tile_config
from longreel.triton_kernels.block_sparse_attention.launch import Call
from longreel.triton_kernels.block_sparse_attention.ranges import (
    TILE,
    VARYING,
    fetch,
    global_head,
    global_range,
    key_rows,
    kv_head,
    local_range,
    read_keys,
    visible_in,
)
from longreel.triton_kernels.common.launch import upcast
from longreel.triton_kernels.common.online_softmax import LOG2_E, LOWEST, softmax_end, softmax_start, softmax_step
from longreel.triton_kernels.common.tiles import head_constants, plus, read, scaled, write, zeros
from torch import Tensor

MERGE_ROWS = 4


@triton.jit(do_not_specialize=VARYING)
def block_sparse_decode_kernel(
    q, k, v, global_k, global_v, layout, split_acc, split_m, split_l,
    scale, batch, queries, keys, kv_heads, group, samples, blocks, global_keys, splits,
    GLOBAL: tl.constexpr, UPCAST: tl.constexpr,
    HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """split_acc fp32 [splits, B, Sq, H, D], split_m and split_l fp32 [splits, B, Sq, H]: the softmax over one part of the
    keys."""
    split = tl.program_id(0) % splits
    hk = (tl.program_id(0) // splits % kv_heads).to(tl.int64)
    pid = tl.program_id(0) // splits // kv_heads
    tile = layout.tiles + tl.load(layout.order + pid // samples // blocks).to(tl.int64) * TILE
    sample = tl.load(tile).to(tl.int64)
    b = sample + pid % samples
    # [BM], row-major over rows and the heads of a group
    i = pid // samples % blocks * BM + tl.arange(0, BM)
    r = tl.load(tile + 1) + i // group
    h = hk * group + i % group
    m_r = r < tl.load(tile + 2)
    # [BN]
    n = tl.arange(0, BN)
    b_q = read(q.p + b * q.b, q.d, r.to(tl.int64) * q.r + h * q.h, 1, m_r, HEAD, BD, TAIL, UPCAST)
    p_bounds = layout.bounds + (sample * queries + r) * 4
    state = softmax_start(BM, BD, TAIL)

    begin, _, _, end, more = local_range(layout, tile, b, keys)
    local_steps = tl.cdiv(end - begin, BN)
    steps = local_steps
    if GLOBAL:
        global_begin, _, _, global_end, global_more = global_range(layout, tile, b, global_keys)
        steps += tl.cdiv(global_end - global_begin, BN)
    share = tl.cdiv(steps, splits)
    first = split * share
    last = tl.minimum(first + share, steps)

    lo = fetch(p_bounds, m_r)
    hi = fetch(p_bounds + 1, m_r) + more
    p_kv = kv_head(k, v, b, hk)
    for step in range(first, tl.minimum(last, local_steps)):
        key = begin + step * BN + n
        m_n = key < end
        b_k, b_v = read_keys(p_kv, key, m_n, HEAD, BD, TAIL, UPCAST)
        state = softmax_step((b_q,), b_k, b_v, visible_in(lo, hi, key, end), state, scale * LOG2_E)
    if GLOBAL:
        lo = fetch(p_bounds + 2, m_r)
        hi = fetch(p_bounds + 3, m_r) + global_more
        index = layout.bounds
        if global_k is None:
            index = layout.global_index + b * layout.index_b
        p_kv = global_head(k, v, global_k, global_v, b, hk)
        for step in range(tl.maximum(first, local_steps), last):
            key = global_begin + (step - local_steps) * BN + n
            m_n = key < global_end
            b_k, b_v = read_keys(p_kv, key_rows(index, key, m_n, global_k is None), m_n, HEAD, BD, TAIL, UPCAST)
            state = softmax_step((b_q,), b_k, b_v, visible_in(lo, hi, key, global_end), state, scale * LOG2_E)

    heads = kv_heads * group
    row = (split * batch + b) * queries * heads + r * heads + h
    m_i, l_i, acc = state
    write(split_acc, acc, row, HEAD, m_r, HEAD, BD, TAIL)
    tl.store(split_m + row, m_i, mask=m_r)
    tl.store(split_l + row, l_i, mask=m_r)


@triton.jit(do_not_specialize=("rows", *VARYING))
def block_sparse_decode_merge_kernel(
    split_acc, split_m, split_l, out, lse, rows, queries, heads, splits,
    HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """out, lse from `splits` parts of `rows` = B * Sq * H rows each, added in their order."""
    # [BM]
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    m_r = row < rows
    row = row.to(tl.int64)
    m_i = tl.full([BM], LOWEST, tl.float32)
    for split in range(0, splits):
        m_i = tl.maximum(m_i, tl.load(split_m + tl.cast(split, tl.int64) * rows + row, mask=m_r, other=0.0))
    l_i = tl.zeros([BM], tl.float32)
    acc = zeros(BM, BD, TAIL)
    for split in range(0, splits):
        at = tl.cast(split, tl.int64) * rows + row
        alpha = tl.exp2(tl.load(split_m + at, mask=m_r, other=0.0) - m_i)
        l_i += alpha * tl.load(split_l + at, mask=m_r, other=0.0)
        acc = plus(acc, scaled(read(split_acc, 1, at, HEAD, m_r, HEAD, BD, TAIL, False), alpha))
    o, b_lse = softmax_end(m_i, l_i, acc)
    write(out, o, row, HEAD, m_r, HEAD, BD, TAIL)
    h = row % heads
    b = row // heads // queries
    tl.store(lse + (b * heads + h) * queries + row // heads % queries, b_lse, mask=m_r)


def decode(call: Call) -> tuple[Tensor, Tensor]:
    """out [B, Sq, H, D] in the dtype of q, lse fp32 [B, H, Sq]; both contiguous."""
    batch, queries, heads, head = call.q.shape
    kv_heads = heads // call.group
    out = call.q.new_empty(batch, queries, heads, head)
    lse = call.q.new_empty(batch, heads, queries, dtype=torch.float32)
    packed = min(call.tile_rows, queries) * call.group
    card = call.card
    config = tile_config("decode", head, call.q.element_size(), packed, call.tile_keys, card.shared)
    blocks = triton.cdiv(packed, config.rows)
    programs = call.tiles.shape[0] * blocks * call.samples * kv_heads
    parts = splits(call.k.shape[1] + call.global_keys, programs, card.multiprocessors)
    split_acc = lse.new_empty(parts, batch, queries, heads, head)
    split_m, split_l = (lse.new_empty(parts, batch, queries, heads) for _ in range(2))
    sizes = head_constants(head)
    with torch.cuda.device_of(call.q):
        block_sparse_decode_kernel[(programs * parts,)](
            *call.heads, call.layout, split_acc, split_m, split_l,
            call.scale, batch, queries, call.k.shape[1], kv_heads, call.group, call.samples, blocks, call.global_keys, parts,
            GLOBAL=call.global_keys > 0, UPCAST=upcast(call.q), BM=config.rows, BN=config.keys, **sizes,
            num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
        block_sparse_decode_merge_kernel[(triton.cdiv(lse.numel(), MERGE_ROWS),)](
            split_acc, split_m, split_l, out, lse, lse.numel(), queries, heads, parts,
            BM=MERGE_ROWS, **sizes, num_warps=4,
        )  # fmt: skip
    return out, lse
