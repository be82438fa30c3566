"""block_sparse_attention backward over keys: the gradients of k, v and of the global keys.

A program takes one unit's keys of one key head through the rows that see them, for every query head that shares it. Keys
of K stand in one unit each. A block of G has several units: each leaves its sums in a workspace, and a second kernel adds
them in the order of the units, with the sums of the same keys in K where G is gathered; every sum is rounded once.
"""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.block_sparse_attention_call import Call
from longreel.triton_kernels.block_sparse_attention_config import head_constants, tile_config
from longreel.triton_kernels.block_sparse_attention_head import (
    only,
    onto_head,
    over_head,
    plus,
    read,
    scaled,
    write,
    zeros,
)
from longreel.triton_kernels.block_sparse_attention_walk import (
    LOG2_E,
    RUN,
    UNIT,
    fetch,
    key_head,
    partial_step,
    parts,
    read_keys,
)
from torch import Tensor

from longreel.layout import schedule


@triton.jit
def block_sparse_keys_kernel(
    q, k, v, global_k, global_v, global_index, start, bounds, units, runs, unit_order, grad_out, lse, delta, factor,
    inverse, counts, sums, own_sums, grad_k, grad_v,
    q_b, q_r, q_h, q_d, k_b, k_r, k_h, k_d, v_b, v_r, v_h, v_d,
    gk_b, gk_r, gk_h, gk_d, gv_b, gv_r, gv_h, gv_d, index_b, start_b, g_b, g_r, g_h, g_d, inverse_b,
    scale, queries, keys, kv_heads, group, samples, blocks, places, slots, turns, tile_keys,
    WANT_KEYS: tl.constexpr, WANT_GLOBAL: tl.constexpr, GATHER: tl.constexpr, UPCAST: tl.constexpr,
    HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """grad_k, grad_v [B, Sk, Hkv, D] of the keys that are not in G; sums fp32 [B, Hkv, slots, turns, 2, BN, D] of G's units
    and counts int32 [samples of the plan, slots] of their units; own_sums fp32 [B, Hkv, G, 2, D] of the keys of K in G."""
    hk = (tl.program_id(0) % kv_heads).to(tl.int64)
    pid = tl.program_id(0) // kv_heads
    place = tl.load(unit_order + pid // samples // blocks).to(tl.int64)
    unit = units + place * UNIT
    sample = tl.load(unit).to(tl.int64)
    b = sample + pid % samples
    is_global = tl.load(unit + 1) != 0
    block = pid // samples % blocks
    first = tl.load(unit + 2) + block * BN
    last = tl.load(unit + 3)
    wanted = WANT_GLOBAL if is_global else WANT_KEYS
    if (first >= last) | (not wanted):
        return

    # [BN]
    n = first + tl.arange(0, BN)
    m_n = n < last
    near = key_head(k, v, b, hk, k_b, k_r, k_h, k_d, v_b, v_r, v_h, v_d)
    key = n
    if is_global:
        key = tl.load(global_index + b * index_b + n, mask=m_n, other=-1)
    if GATHER:
        b_k, b_v = read_keys(near, tl.maximum(key, 0), m_n, HEAD, BD, TAIL, UPCAST)
    elif is_global:
        far = key_head(global_k, global_v, b, hk, gk_b, gk_r, gk_h, gk_d, gv_b, gv_r, gv_h, gv_d)
        b_k, b_v = read_keys(far, n, m_n, HEAD, BD, TAIL, UPCAST)
    else:
        b_k, b_v = read_keys(near, n, m_n, HEAD, BD, TAIL, UPCAST)
    acc_k = zeros(BN, BD, TAIL)
    acc_v = zeros(BN, BD, TAIL)

    # Rows of p of unseen keys are wrong below, and dropped at the end: no step masks them.
    seen = m_n & (key >= tl.load(start + b * start_b))
    first_run = tl.load(unit + 4)
    last_run = tl.where(tl.max(seen.to(tl.int32), axis=0) > 0, tl.load(unit + 5), first_run)
    # [BM]
    m = tl.arange(0, BM)
    log2_scale = scale * LOG2_E
    own = bounds + sample * queries * 4 + is_global.to(tl.int32) * 2
    for h in range(hk * group, hk * group + group):
        p_q = q + b * q_b + h * q_h
        p_grad = grad_out + b * g_b + h * g_h
        row = (b * kv_heads * group + h) * queries
        for i in range(first_run, last_run):
            run = runs + tl.cast(i, tl.int64) * RUN
            begin = tl.load(run)
            full_begin = tl.load(run + 1)
            end = tl.load(run + 3)
            head, tail, partial = parts(begin, full_begin, tl.load(run + 2), end, BM)
            for at in range(full_begin, tail, BM):
                b_q = read(p_q, q_d, at + m, q_r, None, HEAD, BD, TAIL, UPCAST)
                b_grad = read(p_grad, g_d, at + m, g_r, None, HEAD, BD, TAIL, UPCAST)
                acc_k, acc_v = absorb_rows(
                    b_k, b_v, b_q, b_grad, lse + row + at + m, delta + row + at + m,
                    None if factor is None else factor + row + at + m, None, None, acc_k, acc_v, log2_scale,
                )  # fmt: skip
            for j in range(0, partial):
                at, stop = partial_step(j, head, begin, full_begin, tail, end, BM)
                r = at + m
                m_r = r < stop
                lo = fetch(own + r.to(tl.int64) * 4, m_r)
                hi = fetch(own + r.to(tl.int64) * 4 + 1, m_r)
                b_q = read(p_q, q_d, r, q_r, m_r, HEAD, BD, TAIL, UPCAST)
                b_grad = read(p_grad, g_d, r, g_r, m_r, HEAD, BD, TAIL, UPCAST)
                # [BN, BM]
                visible = (n[:, None] >= lo[None, :]) & (n[:, None] < hi[None, :])
                acc_k, acc_v = absorb_rows(
                    b_k, b_v, b_q, b_grad, lse + row + r, delta + row + r,
                    None if factor is None else factor + row + r, m_r, visible, acc_k, acc_v, log2_scale,
                )  # fmt: skip

    acc_k = only(scaled(acc_k, tl.full([BN], 1.0, tl.float32) * scale), seen)
    acc_v = only(acc_v, seen)
    if is_global:
        if WANT_GLOBAL:
            turn = 0
            while (turn < place) & same_block(unit - tl.minimum(turn + 1, place) * UNIT, unit):
                turn += 1
            slot = tl.load(unit + 2) // tile_keys * blocks + block
            p_sums = sums + (((b * kv_heads + hk) * slots + slot) * turns + turn) * (2 * BN * HEAD)
            i = tl.arange(0, BN)
            write(p_sums, acc_k, i, HEAD, i < BN, HEAD, BD, TAIL)
            write(p_sums + BN * HEAD, acc_v, i, HEAD, i < BN, HEAD, BD, TAIL)
            tl.atomic_max(counts + sample * slots + slot, turn + 1)
    elif WANT_KEYS:
        if inverse is not None:
            g = tl.load(inverse + b * inverse_b + n, mask=m_n, other=-1)
            p_own = own_sums + (b * kv_heads + hk) * places * (2 * HEAD)
            write(p_own, acc_k, g, 2 * HEAD, g >= 0, HEAD, BD, TAIL)
            write(p_own + HEAD, acc_v, g, 2 * HEAD, g >= 0, HEAD, BD, TAIL)
            m_n = m_n & (g < 0)
        at = (b * keys * kv_heads + hk) * HEAD
        write(grad_k + at, acc_k, n, kv_heads * HEAD, m_n, HEAD, BD, TAIL)
        write(grad_v + at, acc_v, n, kv_heads * HEAD, m_n, HEAD, BD, TAIL)


@triton.jit
def absorb_rows(k, v, q, grad, lse, delta, factor, m_r, visible, acc_k, acc_v, log2_scale):
    """The gradients of k and v from one more tile of rows; `lse`, `delta` and `factor` point at the rows'."""
    b_lse = fetch(lse, m_r) * LOG2_E
    b_delta = fetch(delta, m_r)
    # [BN, BM]
    p = tl.exp2(over_head(k, q) * log2_scale - b_lse[None, :])
    if factor is not None:
        p = p * fetch(factor, m_r)[None, :]
    if visible is not None:
        p = tl.where(visible, p, 0.0)
    acc_v = onto_head(p, grad, acc_v)
    ds = p * (over_head(v, grad) - b_delta[None, :])
    return onto_head(ds, q, acc_k), acc_v


@triton.jit
def same_block(unit, other):
    """Whether two units hold the same keys: sample, K or G, first key."""
    same = tl.load(unit) == tl.load(other)
    same = same & (tl.load(unit + 1) == tl.load(other + 1))
    return same & (tl.load(unit + 2) == tl.load(other + 2))


@triton.jit
def block_sparse_merge_kernel(
    global_index, counts, sums, own_sums, grad_k, grad_v,
    index_b, keys, kv_heads, samples, blocks, places, slots, turns, tile_keys,
    GATHER: tl.constexpr, HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One program: one block of G and one key head. GATHER: grad_k, grad_v [B, Sk, Hkv, D] at the keys' rows, with what they
    got as keys of K; otherwise [B, G, Hkv, D], every place."""
    hk = (tl.program_id(0) % kv_heads).to(tl.int64)
    slot = tl.program_id(0) // kv_heads % slots
    b = (tl.program_id(0) // kv_heads // slots).to(tl.int64)
    # [BN]
    i = tl.arange(0, BN)
    n = slot // blocks * tile_keys + slot % blocks * BN + i
    m_n = n < tl.minimum(places, (slot // blocks + 1) * tile_keys)
    rows = n
    acc_k = zeros(BN, BD, TAIL)
    acc_v = zeros(BN, BD, TAIL)
    if GATHER:
        rows = tl.load(global_index + b * index_b + n, mask=m_n, other=-1)
        m_n = rows >= 0
        p_own = own_sums + (b * kv_heads + hk) * places * (2 * HEAD)
        acc_k = read(p_own, 1, n, 2 * HEAD, m_n, HEAD, BD, TAIL, False)
        acc_v = read(p_own + HEAD, 1, n, 2 * HEAD, m_n, HEAD, BD, TAIL, False)
    p_sums = sums + ((b * kv_heads + hk) * slots + slot) * turns * (2 * BN * HEAD)
    for _ in range(0, tl.load(counts + b // samples * slots + slot)):
        acc_k = plus(acc_k, read(p_sums, 1, i, HEAD, m_n, HEAD, BD, TAIL, False))
        acc_v = plus(acc_v, read(p_sums + BN * HEAD, 1, i, HEAD, m_n, HEAD, BD, TAIL, False))
        p_sums += 2 * BN * HEAD
    at = (b * keys * kv_heads + hk) * HEAD
    write(grad_k + at, acc_k, rows, kv_heads * HEAD, m_n, HEAD, BD, TAIL)
    write(grad_v + at, acc_v, rows, kv_heads * HEAD, m_n, HEAD, BD, TAIL)


def keys_backward(
    call: Call,
    grad_out: Tensor,
    lse: Tensor,
    delta: Tensor,
    factor: Tensor | None,
    need_keys: bool,
    need_global: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of k, v [B, Sk, Hkv, D] and of global_k, global_v [B, G, Hkv, D]; empty where not needed."""
    gather = call.global_k is None
    batch, queries, _, head = call.q.shape
    _, keys, kv_heads, _ = call.k.shape
    places, samples = call.places, call.samples
    # zeros: a cache may hold more keys than the plan speaks of
    grad_k, grad_v = (call.q.new_zeros(call.k.shape if need_keys else 0) for _ in range(2))
    grad_gk, grad_gv = (
        call.q.new_zeros((batch, places, kv_heads, head) if need_global and not gather else 0) for _ in range(2)
    )
    want_global = places > 0 and (need_keys if gather else need_global)
    if not (need_keys or want_global):
        return grad_k, grad_v, grad_gk, grad_gv

    config = tile_config("keys", head, call.q.element_size(), call.tile_rows, call.tile_keys, call.card[0])
    blocks = triton.cdiv(call.tile_keys, config.keys)
    slots = triton.cdiv(places, call.tile_keys) * blocks
    turns = triton.cdiv(queries, schedule.unit_rows(queries))
    inverse = _inverse(call.global_index, keys) if gather and places else None
    counts = torch.zeros(batch // samples, slots, dtype=torch.int32, device=call.q.device)
    sums = lse.new_empty((batch, kv_heads, slots, turns, 2, config.keys, head) if want_global else 0)
    own_sums = lse.new_empty((batch, kv_heads, places, 2, head) if gather else 0)
    sizes = head_constants(head) | {"BN": config.keys}
    with torch.cuda.device_of(call.q):
        block_sparse_keys_kernel[(call.units.shape[0] * blocks * samples * kv_heads,)](
            call.q, *call.keys, call.bounds, call.units, call.runs, call.unit_order, grad_out, lse, delta, factor,
            inverse, counts, sums, own_sums, grad_k, grad_v,
            *call.q.stride(), *call.key_strides, *grad_out.stride(),
            0 if inverse is None or inverse.shape[0] == 1 else inverse.stride(0),
            call.scale, queries, keys, kv_heads, call.group, samples, blocks, places, slots, turns, call.tile_keys,
            WANT_KEYS=need_keys, WANT_GLOBAL=want_global, GATHER=gather, UPCAST=call.upcast, BM=config.rows, **sizes,
            num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
        if want_global:
            index_stride = call.key_strides[-2]
            block_sparse_merge_kernel[(batch * slots * kv_heads,)](
                call.global_index, counts, sums, own_sums, *((grad_k, grad_v) if gather else (grad_gk, grad_gv)),
                index_stride, keys if gather else places, kv_heads, samples, blocks, places, slots, turns,
                call.tile_keys, GATHER=gather, **sizes, num_warps=4,
            )  # fmt: skip
    return grad_k, grad_v, grad_gk, grad_gv


def _inverse(index: Tensor, keys: int) -> Tensor:
    """int32 [samples, keys + 1]: the place in G of every key of K, or -1; the last column takes what pads G."""
    inverse = index.new_full((index.shape[0], keys + 1), -1)
    places = torch.arange(index.shape[1], dtype=torch.int32, device=index.device)
    return inverse.scatter_(1, index.long().masked_fill(index < 0, keys), places.expand_as(index))
