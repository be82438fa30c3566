"""block_sparse_attention forward: a program takes rows of one query tile and one head through the keys of its two ranges."""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.block_sparse_attention.config import tile_config
from longreel.triton_kernels.block_sparse_attention.launch import Call, with_own_global
from longreel.triton_kernels.block_sparse_attention.ranges import VARYING, kv_head, query_block, walk_tile
from longreel.triton_kernels.common.launch import upcast
from longreel.triton_kernels.common.online_softmax import LOG2_E, softmax_end, softmax_start, softmax_step
from longreel.triton_kernels.common.tiles import head_constants, read_head, write
from torch import Tensor


@triton.jit(do_not_specialize=VARYING)
def block_sparse_forward_kernel(
    q, k, v, global_k, global_v, layout, out, lse,
    scale, queries, keys, heads, group, samples, blocks, global_keys,
    GLOBAL: tl.constexpr, UPCAST: tl.constexpr,
    HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """A program: BM rows of one tile for one head."""
    h, b, sample, tile, first, last = query_block(layout, heads, samples, blocks, BM)
    if first >= last:
        return

    # [BM]
    r = first + tl.arange(0, BM)
    m_r = r < last
    b_q = read_head(q, b, h, r, m_r, HEAD, BD, TAIL, UPCAST)
    m_i, l_i, acc = walk_tile(
        softmax_step, (b_q,), softmax_start(BM, BD, TAIL),
        kv_head(k, v, b, h // group), kv_head(global_k, global_v, b, h // group) if GLOBAL else (),
        tile, layout.bounds + (sample * queries + r) * 4, m_r, layout, b, keys, global_keys, scale * LOG2_E,
        GLOBAL, UPCAST, HEAD, BD, TAIL, BN,
    )  # fmt: skip

    o, b_lse = softmax_end(m_i, l_i, acc)
    write(out + (b * queries * heads + h) * HEAD, o, r, heads * HEAD, m_r, HEAD, BD, TAIL)
    tl.store(lse + (b * heads + h) * queries + r, b_lse, mask=m_r)


def forward(call: Call) -> tuple[Tensor, Tensor]:
    """out [B, Sq, H, D] in the dtype of q, lse fp32 [B, H, Sq]; both contiguous."""
    batch, queries, heads, head = call.q.shape
    out = call.q.new_empty(batch, queries, heads, head)
    lse = call.q.new_empty(batch, heads, queries, dtype=torch.float32)
    if lse.numel() == 0:
        return out, lse
    call = with_own_global(call)
    config = tile_config("forward", head, call.q.element_size(), call.tile_rows, call.tile_keys, call.card)
    blocks = triton.cdiv(call.tile_rows, config.rows)
    with torch.cuda.device_of(call.q):
        block_sparse_forward_kernel[(call.tiles.shape[0] * blocks * call.samples * heads,)](
            *call.heads, call.layout, out, lse,
            call.scale, queries, call.k.shape[1], heads, call.group, call.samples, blocks, call.global_keys,
            GLOBAL=call.global_keys > 0, UPCAST=upcast(call.q), **head_constants(head), BM=config.rows, BN=config.keys,
            num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
    return out, lse
