"""block_sparse_attention for few query rows over long keys: the keys of a tile split over programs, merged in their order.

Bound by one read of the keys: a program holds the rows of every query head that shares its key head, and masks each step.
"""

import functools

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.block_sparse_attention.config import splits, tile_config
from longreel.triton_kernels.block_sparse_attention.launch import Call
from longreel.triton_kernels.block_sparse_attention.ranges import (
    TILE,
    VARYING,
    chosen,
    fetch,
    global_range,
    kv_head,
    local_range,
    read_keys,
)
from longreel.triton_kernels.common.bound import Bound
from longreel.triton_kernels.common.card import Card
from longreel.triton_kernels.common.launch import upcast
from longreel.triton_kernels.common.online_softmax import LOG2_E, LOWEST, softmax_end, softmax_start, softmax_step
from longreel.triton_kernels.common.tiles import head_constants, plus, read, scaled, write, zeros
from torch import Tensor

MERGE_ROWS = 4


@triton.jit(do_not_specialize=VARYING)
def block_sparse_decode_kernel(
    q, k, v, global_k, global_v, layout, sums,
    scale, batch, queries, keys, kv_heads, group, samples, blocks, global_keys, splits,
    GLOBAL: tl.constexpr, GATHER: tl.constexpr, UPCAST: tl.constexpr,
    HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Fills `sums`, see `sums_of`: the softmax over one part of the keys."""
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
    lo = fetch(p_bounds, m_r)
    hi = fetch(p_bounds + 1, m_r) + more
    p_local = kv_head(k, v, b, hk)
    local_steps = tl.cdiv(end - begin, BN)
    steps = local_steps
    if GLOBAL:
        g_begin, _, _, g_end, more = global_range(layout, tile, b, global_keys)
        g_lo = fetch(p_bounds + 2, m_r)
        g_hi = fetch(p_bounds + 3, m_r) + more
        steps += tl.cdiv(g_end - g_begin, BN)
        # Steps over G follow those over K.
        g_base = g_begin - local_steps * BN
    share = tl.cdiv(steps, splits)
    first = split * share
    last = tl.minimum(first + share, steps)

    if GATHER:
        index = layout.global_index + b * layout.index_b
        rows = gathered(index, g_begin, g_end, g_base + first * BN + n)
    for step in range(first, last):
        p_kv = p_local
        key = begin + step * BN + n
        i_lo, i_hi, stop = lo, hi, end
        if GLOBAL:
            other = step >= local_steps
            key = tl.where(other, g_base, begin) + step * BN + n
            i_lo, i_hi = chosen(other, (g_lo, g_hi), (lo, hi))
            stop = tl.where(other, g_end, end)
        at = key
        if GATHER:
            at = tl.where(other, rows, key)
            # A step ahead: no read of keys waits for where they stand.
            rows = gathered(index, g_begin, g_end, g_base + (step + 1) * BN + n)
        elif GLOBAL:
            p_kv = chosen(other, kv_head(global_k, global_v, b, hk), p_local)
        b_k, b_v = read_keys(p_kv, at, key < stop, HEAD, BD, TAIL, UPCAST)
        state = softmax_step((b_q,), b_k, b_v, (False, i_lo, i_hi, key, stop), state, scale * LOG2_E)

    heads = kv_heads * group
    row = (split * batch + b) * queries * heads + r * heads + h
    m_i, l_i, acc = state
    split_acc, split_m, split_l = sums_of(sums, splits, batch * queries * heads, HEAD)
    write(split_acc, acc, row, HEAD, m_r, HEAD, BD, TAIL)
    tl.store(split_m + row, m_i, mask=m_r)
    tl.store(split_l + row, l_i, mask=m_r)


@triton.jit
def gathered(index, begin, end, places):
    """Rows of K that `places` of G stand in, by `index`; 0 outside begin .. end."""
    return tl.load(index + places, mask=(places >= begin) & (places < end), other=0)


@triton.jit
def sums_of(sums, splits, rows, HEAD: tl.constexpr):
    """Of fp32 [splits * rows * (D + 2)], rows = B * Sq * H: the sums that weight the values, [splits, rows, D], first,
    so that they are aligned; the largest scores m_i, [splits, rows]; the sums l_i of exp2."""
    count = tl.cast(splits, tl.int64) * rows
    return sums, sums + count * HEAD, sums + count * (HEAD + 1)


@triton.jit(do_not_specialize=("rows", *VARYING))
def block_sparse_decode_merge_kernel(
    sums, out, lse, rows, queries, heads, splits,
    HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """out, lse from `splits` parts of `rows` = B * Sq * H rows each, added in their order."""
    # [BM]
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    m_r = row < rows
    row = row.to(tl.int64)
    split_acc, split_m, split_l = sums_of(sums, splits, rows, HEAD)
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


@functools.lru_cache
def bound_decode(
    head: int, itemsize: int, rows: int, keys: int, card: Card, has_global: bool, gather: bool, wide: bool
) -> tuple[int, Bound]:
    """Query rows of a program, and the kernel."""
    config = tile_config("decode", head, itemsize, rows, keys, card)
    return config.rows, Bound(
        block_sparse_decode_kernel, GLOBAL=has_global, GATHER=has_global and gather, UPCAST=wide, **head_constants(head),
        BM=config.rows, BN=config.keys, num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
    )  # fmt: skip


@functools.lru_cache
def bound_merge(head: int) -> Bound:
    return Bound(block_sparse_decode_merge_kernel, **head_constants(head), BM=MERGE_ROWS, num_warps=4)


def decode(call: Call) -> tuple[Tensor, Tensor]:
    """out [B, Sq, H, D] in the dtype of q, lse fp32 [B, H, Sq]; both contiguous."""
    q, group, samples, card = call.q, call.group, call.samples, call.card
    batch, queries, heads, head = q.shape
    keys, global_keys, kv_heads = call.k.shape[1], call.global_keys, heads // group
    packed = min(call.tile_rows, queries) * group
    rows, kernel = bound_decode(
        head, q.element_size(), packed, call.tile_keys, card, global_keys > 0, call.global_k is None, upcast(q)
    )
    blocks = -(-packed // rows)
    programs = call.tiles.shape[0] * blocks * samples * kv_heads
    parts = splits(keys + global_keys, programs, card.multiprocessors)
    every = batch * queries * heads
    out = q.new_empty(batch, queries, heads, head)
    lse = q.new_empty(batch, heads, queries, dtype=torch.float32)
    sums = lse.new_empty(parts * every * (head + 2))
    with torch.cuda.device_of(q):
        kernel(
            programs * parts, *call.heads, call.layout, sums,
            call.scale, batch, queries, keys, kv_heads, group, samples, blocks, global_keys, parts,
        )  # fmt: skip
        bound_merge(head)(-(-every // MERGE_ROWS), sums, out, lse, every, queries, heads, parts)
    return out, lse
