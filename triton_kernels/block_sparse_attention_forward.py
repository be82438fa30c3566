"""block_sparse_attention forward: a program takes rows of one query tile and one head through the keys of its two runs."""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.block_sparse_attention_call import Call
from longreel.triton_kernels.block_sparse_attention_config import head_constants, tile_config
from longreel.triton_kernels.block_sparse_attention_head import read, scaled, write, zeros
from longreel.triton_kernels.block_sparse_attention_walk import (
    LN_2,
    LOG2_E,
    LOWEST,
    absorb,
    key_head,
    query_block,
    walk_tile,
)
from torch import Tensor


@triton.jit
def block_sparse_forward_kernel(
    q, k, v, global_k, global_v, global_index, start, bounds, tiles, order, out, lse,
    q_b, q_r, q_h, q_d, k_b, k_r, k_h, k_d, v_b, v_r, v_h, v_d,
    gk_b, gk_r, gk_h, gk_d, gv_b, gv_r, gv_h, gv_d, index_b, start_b,
    scale, queries, heads, group, samples, blocks, places,
    GLOBAL: tl.constexpr, GATHER: tl.constexpr, UPCAST: tl.constexpr,
    HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """A program: BM rows of one tile for one head. G has `places`."""
    h, b, sample, tile, first, last = query_block(tiles, order, heads, samples, blocks, BM)
    if first >= last:
        return

    # [BM]
    r = first + tl.arange(0, BM)
    m_r = r < last
    b_q = read(q + b * q_b + h * q_h, q_d, r, q_r, m_r, HEAD, BD, TAIL, UPCAST)
    sums = tl.full([BM], LOWEST, tl.float32), tl.zeros([BM], tl.float32), zeros(BM, BD, TAIL)
    near = key_head(k, v, b, h // group, k_b, k_r, k_h, k_d, v_b, v_r, v_h, v_d)
    far = near
    if not GATHER:
        far = key_head(global_k, global_v, b, h // group, gk_b, gk_r, gk_h, gk_d, gv_b, gv_r, gv_h, gv_d)
    top, total, acc = walk_tile(
        absorb, (b_q,), sums, near, far, tile, bounds + (sample * queries + r) * 4, m_r, global_index + b * index_b, places,
        tl.load(start + b * start_b), scale * LOG2_E, GLOBAL, GATHER, UPCAST, HEAD, BD, TAIL, BN,
    )  # fmt: skip

    some = total > 0
    share = tl.where(some, total, 1.0)
    write(out + (b * queries * heads + h) * HEAD, scaled(acc, 1.0 / share), r, heads * HEAD, m_r, HEAD, BD, TAIL)
    p_lse = lse + (b * heads + h) * queries + r
    tl.store(p_lse, tl.where(some, top * LN_2 + tl.log(share), float("-inf")), mask=m_r)


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
            **head_constants(head), BM=config.rows, BN=config.keys,
            num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
    return out, lse
