"""block_sparse_attention forward: a program takes rows of one query tile and one head through the keys of its two runs."""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.block_sparse_attention_call import Call
from longreel.triton_kernels.block_sparse_attention_config import head_block, tile_config
from longreel.triton_kernels.block_sparse_attention_walk import (
    LN_2,
    LOG2_E,
    LOWEST,
    RUN,
    TILE,
    clipped,
    first_seen,
    read,
    walk,
    write,
)
from torch import Tensor


@triton.jit
def block_sparse_forward_kernel(
    q, k, v, global_k, global_v, global_index, start, bounds, tiles, order, out, lse,
    q_b, q_r, q_h, q_d, k_b, k_r, k_h, k_d, v_b, v_r, v_h, v_d,
    gk_b, gk_r, gk_h, gk_d, gv_b, gv_r, gv_h, gv_d, index_b, start_b,
    scale, queries, heads, group, samples, blocks, places,
    GLOBAL: tl.constexpr, GATHER: tl.constexpr, UPCAST: tl.constexpr,
    HEAD: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Heads of one tile run side by side, so that those that share keys find them in L2. `samples` of the batch share a
    sample of the plan, a tile of the plan has `blocks` blocks of BM rows, G has `places`."""
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
    top = tl.full([BM], LOWEST, tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, BD], tl.float32)

    own = bounds + (sample * queries + r) * 4
    seen = tl.load(start + b * start_b)
    p_k = k + b * k_b + h // group * k_h + d * k_d
    p_v = v + b * v_b + h // group * v_h + d * v_d
    begin, full_begin, full_end, end = clipped(tile + 4, seen)
    top, total, acc = walk(
        b_q, p_k, p_v, k_r, v_r, global_index, own, m_r, begin, full_begin, full_end, end, top, total, acc,
        scale * LOG2_E, False, UPCAST, HEAD, BD, BN,
    )  # fmt: skip
    if GLOBAL:
        index = global_index + b * index_b
        if not GATHER:
            p_k = global_k + b * gk_b + h // group * gk_h + d * gk_d
            p_v = global_v + b * gv_b + h // group * gv_h + d * gv_d
            k_r = gk_r
            v_r = gv_r
        begin, full_begin, full_end, end = clipped(tile + 4 + RUN, first_seen(index, places, seen))
        top, total, acc = walk(
            b_q, p_k, p_v, k_r, v_r, index, own + 2, m_r, begin, full_begin, full_end, end, top, total, acc,
            scale * LOG2_E, GATHER, UPCAST, HEAD, BD, BN,
        )  # fmt: skip

    some = total > 0
    acc = acc / tl.where(some, total, 1.0)[:, None]
    row = b * queries
    write(out + (row * heads + h) * HEAD, acc, r, heads * HEAD, m_r, HEAD, BD)
    tl.store(
        lse + (b * heads + h) * queries + r,
        tl.where(some, top * LN_2 + tl.log(tl.where(some, total, 1.0)), float("-inf")),
        mask=m_r,
    )


def forward(call: Call) -> tuple[Tensor, Tensor]:
    """out [B, Sq, H, D] in the dtype of q, lse fp32 [B, H, Sq]; both contiguous."""
    batch, queries, heads, head = call.q.shape
    out = call.q.new_empty(batch, queries, heads, head)
    lse = call.q.new_empty(batch, heads, queries, dtype=torch.float32)
    if lse.numel() == 0:
        return out, lse
    config = tile_config("forward", head, call.q.element_size(), call.tile_rows, call.tile_keys, call.card[0])
    blocks = triton.cdiv(call.tile_rows, config.rows)
    with torch.cuda.device_of(call.q):
        block_sparse_forward_kernel[(call.tiles.shape[0] * blocks * call.samples * heads,)](
            call.q, *call.keys, call.bounds, call.tiles, call.order, out, lse,
            *call.q.stride(), *call.key_strides,
            call.scale, queries, heads, call.group, call.samples, blocks, call.places,
            GLOBAL=call.places > 0, GATHER=call.global_k is None, UPCAST=call.upcast,
            HEAD=head, BD=head_block(head), BM=config.rows, BN=config.keys,
            num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
    return out, lse
