"""block_sparse_attention backward over keys: the gradients of k, v and of the global keys.

A program takes one KV block of one key head through the query rows that attend to it, for every query head that shares it.
Keys of K stand in one KV block each. A block of G has several, one for each chunk of query rows: each leaves its sums in a
workspace, and a second kernel adds them in the order of the chunks, with the sums of the same keys in K where G is gathered;
every sum is rounded once.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.block_sparse_attention.config import tile_config
from longreel.triton_kernels.block_sparse_attention.launch import Call, RowTerms
from longreel.triton_kernels.block_sparse_attention.ranges import (
    KV_BLOCK,
    RANGE,
    VARYING,
    fetch,
    kv_head,
    partial_step,
    parts,
    read_keys,
)
from longreel.triton_kernels.common.launch import upcast
from longreel.triton_kernels.common.online_softmax import LOG2_E
from longreel.triton_kernels.common.tiles import (
    head_constants,
    heads_of,
    only,
    onto_head,
    over_head,
    plus,
    read,
    scaled,
    write,
    zeros,
)
from torch import Tensor

from longreel.layout import schedule


class Sums(NamedTuple):
    """Of the global keys: chunks fp32 [B, Hkv, slots, chunks, 2, BN, D] and how many of them are there, counts int32 [samples
    of the plan, slots]; own fp32 [B, Hkv, G, 2, D], what the keys of K in G got as keys of K."""

    chunks: Any
    counts: Any
    own: Any


class Inverse(NamedTuple):
    """int32 [samples, Sk + 1 or more]: the place in G of every key of K, or -1; `b` from sample to sample."""

    p: Any
    b: Any


@triton.jit(do_not_specialize=VARYING)
def block_sparse_backward_dkv_kernel(
    q, k, v, global_k, global_v, layout, do, terms, inverse, sums, dk, dv,
    scale, queries, keys, kv_heads, group, samples, blocks, global_keys, slots, chunks, tile_keys,
    WANT_KEYS: tl.constexpr, WANT_GLOBAL: tl.constexpr, UPCAST: tl.constexpr,
    HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """dk, dv [B, Sk, Hkv, D] of the keys that are not in G; `sums` of those that are."""
    hk = (tl.program_id(0) % kv_heads).to(tl.int64)
    pid = tl.program_id(0) // kv_heads
    i_block = tl.load(layout.kv_order + pid // samples // blocks).to(tl.int64)
    p_block = layout.kv_blocks + i_block * KV_BLOCK
    sample = tl.load(p_block).to(tl.int64)
    b = sample + pid % samples
    is_global = tl.load(p_block + 1) != 0
    block = pid // samples % blocks
    first = tl.load(p_block + 2) + block * BN
    last = tl.load(p_block + 3)
    wanted = WANT_GLOBAL if is_global else WANT_KEYS
    if (first >= last) | (not wanted):
        return

    # [BN]
    n = first + tl.arange(0, BN)
    m_n = n < last
    p_kv = kv_head(k, v, b, hk)
    key = n
    if is_global:
        key = tl.load(layout.global_index + b * layout.index_b + n, mask=m_n, other=-1)
    if global_k is None:
        b_k, b_v = read_keys(p_kv, tl.maximum(key, 0), m_n, HEAD, BD, TAIL, UPCAST)
    elif is_global:
        b_k, b_v = read_keys(kv_head(global_k, global_v, b, hk), n, m_n, HEAD, BD, TAIL, UPCAST)
    else:
        b_k, b_v = read_keys(p_kv, n, m_n, HEAD, BD, TAIL, UPCAST)
    acc_dk = zeros(BN, BD, TAIL)
    acc_dv = zeros(BN, BD, TAIL)

    # Rows of p of keys that nobody attends to are wrong below, and dropped at the end: no step masks them.
    visible = m_n & (key >= tl.load(layout.start + b * layout.start_b))
    first_range = tl.load(p_block + 4)
    last_range = tl.where(tl.max(visible.to(tl.int32), axis=0) > 0, tl.load(p_block + 5), first_range)
    # [BM]
    m = tl.arange(0, BM)
    log2_scale = scale * LOG2_E
    p_bounds = layout.bounds + sample * queries * 4 + is_global.to(tl.int32) * 2
    for h in range(hk * group, hk * group + group):
        p_q = q.p + b * q.b + h * q.h
        p_do = do.p + b * do.b + h * do.h
        row = (b * kv_heads * group + h) * queries
        for i in range(first_range, last_range):
            p_range = layout.query_ranges + tl.cast(i, tl.int64) * RANGE
            begin = tl.load(p_range)
            full_begin = tl.load(p_range + 1)
            end = tl.load(p_range + 3)
            head, tail, partial = parts(begin, full_begin, tl.load(p_range + 2), end, BM)
            for at in range(full_begin, tail, BM):
                b_q = read(p_q, q.d, at + m, q.r, None, HEAD, BD, TAIL, UPCAST)
                b_do = read(p_do, do.d, at + m, do.r, None, HEAD, BD, TAIL, UPCAST)
                acc_dk, acc_dv = dkv_step(
                    b_k, b_v, b_q, b_do, terms, row + at + m, None, None, acc_dk, acc_dv, log2_scale,
                )  # fmt: skip
            for j in range(0, partial):
                at, stop = partial_step(j, head, begin, full_begin, tail, end, BM)
                r = at + m
                m_r = r < stop
                lo = fetch(p_bounds + r.to(tl.int64) * 4, m_r)
                hi = fetch(p_bounds + r.to(tl.int64) * 4 + 1, m_r)
                b_q = read(p_q, q.d, r, q.r, m_r, HEAD, BD, TAIL, UPCAST)
                b_do = read(p_do, do.d, r, do.r, m_r, HEAD, BD, TAIL, UPCAST)
                # [BN, BM]
                m_nr = (n[:, None] >= lo[None, :]) & (n[:, None] < hi[None, :])
                acc_dk, acc_dv = dkv_step(
                    b_k, b_v, b_q, b_do, terms, row + r, m_r, m_nr, acc_dk, acc_dv, log2_scale,
                )  # fmt: skip

    acc_dk = only(scaled(acc_dk, tl.full([BN], 1.0, tl.float32) * scale), visible)
    acc_dv = only(acc_dv, visible)
    if is_global:
        if WANT_GLOBAL:
            chunk = 0
            while (chunk < i_block) & same_block(p_block - tl.minimum(chunk + 1, i_block) * KV_BLOCK, p_block):
                chunk += 1
            slot = tl.load(p_block + 2) // tile_keys * blocks + block
            p_sums = sums.chunks + (((b * kv_heads + hk) * slots + slot) * chunks + chunk) * (2 * BN * HEAD)
            i = tl.arange(0, BN)
            write(p_sums, acc_dk, i, HEAD, i < BN, HEAD, BD, TAIL)
            write(p_sums + BN * HEAD, acc_dv, i, HEAD, i < BN, HEAD, BD, TAIL)
            tl.atomic_max(sums.counts + sample * slots + slot, chunk + 1)
    elif WANT_KEYS:
        if inverse is not None:
            g = tl.load(inverse.p + b * inverse.b + n, mask=m_n, other=-1)
            p_own = sums.own + (b * kv_heads + hk) * global_keys * (2 * HEAD)
            write(p_own, acc_dk, g, 2 * HEAD, g >= 0, HEAD, BD, TAIL)
            write(p_own + HEAD, acc_dv, g, 2 * HEAD, g >= 0, HEAD, BD, TAIL)
            m_n = m_n & (g < 0)
        at = (b * keys * kv_heads + hk) * HEAD
        write(dk + at, acc_dk, n, kv_heads * HEAD, m_n, HEAD, BD, TAIL)
        write(dv + at, acc_dv, n, kv_heads * HEAD, m_n, HEAD, BD, TAIL)


@triton.jit
def dkv_step(b_k, b_v, b_q, b_do, terms, row, m_r, visible, acc_dk, acc_dv, log2_scale):
    """The gradients of k and v from one more tile of query rows, whose terms stand at `row` [BM]."""
    b_lse = fetch(terms.lse + row, m_r) * LOG2_E
    b_delta = fetch(terms.delta + row, m_r)
    # [BN, BM]
    p = tl.exp2(over_head(b_k, b_q) * log2_scale - b_lse[None, :])
    if terms.norm is not None:
        p = p * fetch(terms.norm + row, m_r)[None, :]
    if visible is not None:
        p = tl.where(visible, p, 0.0)
    acc_dv = onto_head(p, b_do, acc_dv)
    ds = p * (over_head(b_v, b_do) - b_delta[None, :])
    return onto_head(ds, b_q, acc_dk), acc_dv


@triton.jit
def same_block(p_block, p_other):
    """Whether two KV blocks hold the same keys: sample, K or G, first key."""
    same = tl.load(p_block) == tl.load(p_other)
    same = same & (tl.load(p_block + 1) == tl.load(p_other + 1))
    return same & (tl.load(p_block + 2) == tl.load(p_other + 2))


@triton.jit(do_not_specialize=VARYING)
def block_sparse_merge_kernel(
    layout, sums, dk, dv, keys, kv_heads, samples, blocks, global_keys, slots, chunks, tile_keys,
    GATHER: tl.constexpr, HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One program: one block of G and one key head. GATHER: dk, dv [B, Sk, Hkv, D] at the keys' rows, with what they got as
    keys of K; otherwise [B, G, Hkv, D], every place."""
    hk = (tl.program_id(0) % kv_heads).to(tl.int64)
    slot = tl.program_id(0) // kv_heads % slots
    b = (tl.program_id(0) // kv_heads // slots).to(tl.int64)
    # [BN]
    i = tl.arange(0, BN)
    n = slot // blocks * tile_keys + slot % blocks * BN + i
    m_n = n < tl.minimum(global_keys, (slot // blocks + 1) * tile_keys)
    rows = n
    acc_dk = zeros(BN, BD, TAIL)
    acc_dv = zeros(BN, BD, TAIL)
    if GATHER:
        rows = tl.load(layout.global_index + b * layout.index_b + n, mask=m_n, other=-1)
        m_n = rows >= 0
        p_own = sums.own + (b * kv_heads + hk) * global_keys * (2 * HEAD)
        acc_dk = read(p_own, 1, n, 2 * HEAD, m_n, HEAD, BD, TAIL, False)
        acc_dv = read(p_own + HEAD, 1, n, 2 * HEAD, m_n, HEAD, BD, TAIL, False)
    p_sums = sums.chunks + ((b * kv_heads + hk) * slots + slot) * chunks * (2 * BN * HEAD)
    for _ in range(0, tl.load(sums.counts + b // samples * slots + slot)):
        acc_dk = plus(acc_dk, read(p_sums, 1, i, HEAD, m_n, HEAD, BD, TAIL, False))
        acc_dv = plus(acc_dv, read(p_sums + BN * HEAD, 1, i, HEAD, m_n, HEAD, BD, TAIL, False))
        p_sums += 2 * BN * HEAD
    at = (b * keys * kv_heads + hk) * HEAD
    write(dk + at, acc_dk, rows, kv_heads * HEAD, m_n, HEAD, BD, TAIL)
    write(dv + at, acc_dv, rows, kv_heads * HEAD, m_n, HEAD, BD, TAIL)


def backward_dkv(
    call: Call, do: Tensor, terms: RowTerms, need_keys: bool, need_global: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of k, v [B, Sk, Hkv, D] and of global_k, global_v [B, G, Hkv, D]; empty where not needed."""
    gather = call.global_k is None
    batch, queries, _, head = call.q.shape
    _, keys, kv_heads, _ = call.k.shape
    global_keys, samples = call.global_keys, call.samples
    # zeros: a cache may hold more keys than the plan has
    dk, dv = (call.q.new_zeros(call.k.shape if need_keys else 0) for _ in range(2))
    global_dk, global_dv = (
        call.q.new_zeros((batch, global_keys, kv_heads, head) if need_global and not gather else 0) for _ in range(2)
    )
    want_global = global_keys > 0 and (need_keys if gather else need_global)
    if not (need_keys or want_global):
        return dk, dv, global_dk, global_dv

    config = tile_config("backward_dkv", head, call.q.element_size(), call.tile_rows, call.tile_keys, call.card)
    blocks = triton.cdiv(call.tile_keys, config.keys)
    slots = triton.cdiv(global_keys, call.tile_keys) * blocks
    chunks = triton.cdiv(queries, schedule.block_rows(queries))
    sums = Sums(
        terms.lse.new_empty((batch, kv_heads, slots, chunks, 2, config.keys, head) if want_global else 0),
        torch.zeros(batch // samples, slots, dtype=torch.int32, device=call.q.device),
        terms.lse.new_empty((batch, kv_heads, global_keys, 2, head) if gather else 0),
    )
    sizes = head_constants(head) | {"BN": config.keys}
    with torch.cuda.device_of(call.q):
        block_sparse_backward_dkv_kernel[(call.kv_blocks.shape[0] * blocks * samples * kv_heads,)](
            *call.heads, call.layout, heads_of(do), terms,
            _inverse(call.global_index, keys) if gather and global_keys else None, sums, dk, dv,
            call.scale, queries, keys, kv_heads, call.group, samples, blocks, global_keys, slots, chunks, call.tile_keys,
            WANT_KEYS=need_keys, WANT_GLOBAL=want_global, UPCAST=upcast(call.q), BM=config.rows, **sizes,
            num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
        if want_global:
            block_sparse_merge_kernel[(batch * slots * kv_heads,)](
                call.layout, sums, *((dk, dv) if gather else (global_dk, global_dv)),
                keys if gather else global_keys, kv_heads, samples, blocks, global_keys, slots, chunks, call.tile_keys,
                GATHER=gather, **sizes, num_warps=4,
            )  # fmt: skip
    return dk, dv, global_dk, global_dv


def _inverse(index: Tensor, keys: int) -> Inverse:
    """The last column takes what pads G; rows are as long as `wide_rows` makes them."""
    inverse = index.new_full((index.shape[0], triton.cdiv(keys + 1, 16) * 16), -1)
    places = torch.arange(index.shape[1], dtype=torch.int32, device=index.device)
    inverse.scatter_(1, index.long().masked_fill(index < 0, keys), places.expand_as(index))
    return Inverse(inverse, 0 if inverse.shape[0] == 1 else inverse.stride(0))
