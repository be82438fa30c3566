"""block_sparse_attention backward over query rows: what every row needs of its output, and the gradient of q.

With p = exp(s - lse), dp = do . v and delta = sum(do * out) - dlse: ds = p (dp - delta), dq = scale ds K.
In fp32 the rounding of a large lse would scale whole rows of p: their sums are taken again, and divided by.
"""

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.block_sparse_attention.config import tile_config
from longreel.triton_kernels.block_sparse_attention.launch import Call, RowTerms
from longreel.triton_kernels.block_sparse_attention.ranges import (
    VARYING,
    fetch,
    kv_head,
    query_block,
    walk_tile,
)
from longreel.triton_kernels.common.launch import upcast
from longreel.triton_kernels.common.online_softmax import LOG2_E, hide
from longreel.triton_kernels.common.tiles import (
    head_constants,
    heads_of,
    inner,
    onto_head,
    over_head,
    read_head,
    scaled,
    write,
    zeros,
)
from torch import Tensor

DELTA_ROWS = 32


@triton.jit(do_not_specialize=VARYING)
def block_sparse_delta_kernel(
    out, do, lse, dlse, delta, dlse_b, dlse_h, dlse_r, queries, heads,
    UPCAST: tl.constexpr, HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """delta fp32 [B, H, Sq]; 0 for a row that attends to nothing."""
    blocks = tl.cdiv(queries, BM)
    pid = (tl.program_id(0) // blocks).to(tl.int64)
    h = pid % heads
    b = pid // heads
    # [BM]
    r = tl.program_id(0) % blocks * BM + tl.arange(0, BM)
    m_r = r < queries
    b_out = read_head(out, b, h, r, m_r, HEAD, BD, TAIL, UPCAST)
    b_do = read_head(do, b, h, r, m_r, HEAD, BD, TAIL, UPCAST)
    b_delta = inner(b_out, b_do)
    if dlse is not None:
        b_delta -= tl.load(dlse + b * dlse_b + h * dlse_h + r.to(tl.int64) * dlse_r, mask=m_r, other=0.0)
    alive = fetch(lse + pid * queries + r, m_r) > float("-inf")
    tl.store(delta + pid * queries + r, tl.where(alive, b_delta, 0.0), mask=m_r)


@triton.jit(do_not_specialize=VARYING)
def block_sparse_backward_dq_kernel(
    q, k, v, global_k, global_v, layout, do, terms, dq,
    scale, queries, heads, group, samples, blocks, global_keys,
    NEED: tl.constexpr, GLOBAL: tl.constexpr, UPCAST: tl.constexpr,
    HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Programs as in the forward kernel. Fills terms.norm where it is given; NEED: dq."""
    h, b, sample, tile, first, last = query_block(layout, heads, samples, blocks, BM)
    if first >= last:
        return

    # [BM]
    r = first + tl.arange(0, BM)
    m_r = r < last
    b_q = read_head(q, b, h, r, m_r, HEAD, BD, TAIL, UPCAST)
    b_do = read_head(do, b, h, r, m_r, HEAD, BD, TAIL, UPCAST)
    row = (b * heads + h) * queries + r
    b_lse = fetch(terms.lse + row, m_r) * LOG2_E
    b_delta = fetch(terms.delta + row, m_r)
    # Nothing is summed that nobody asks for.
    l_i = ()
    if terms.norm is not None:
        l_i = (tl.zeros([BM], tl.float32),)
    acc = ()
    if NEED:
        acc = zeros(BM, BD, TAIL)
    l_i, acc = walk_tile(
        dq_step, (b_q, b_do, b_lse, b_delta), (l_i, acc),
        kv_head(k, v, b, h // group), kv_head(global_k, global_v, b, h // group) if GLOBAL else (),
        tile, layout.bounds + (sample * queries + r) * 4, m_r, layout, b, 0, global_keys, scale * LOG2_E,
        GLOBAL, UPCAST, HEAD, BD, TAIL, BN,
    )  # fmt: skip

    b_norm = tl.full([BM], 1.0, tl.float32)
    if terms.norm is not None:
        b_norm = 1.0 / tl.where(l_i[0] > 0, l_i[0], 1.0)
        tl.store(terms.norm + row, b_norm, mask=m_r)
    if NEED:
        p_dq = dq + (b * queries * heads + h) * HEAD
        write(p_dq, scaled(acc, b_norm * scale), r, heads * HEAD, m_r, HEAD, BD, TAIL)


@triton.jit
def dq_step(queries, b_k, b_v, visible, state, log2_scale):
    """The gradient of q from one more tile of keys, and the sums of p, each where it is not empty; lse in units of log 2."""
    b_q, b_do, b_lse, b_delta = queries
    l_i, acc = state
    # [BM, BN]
    p = hide(tl.exp2(over_head(b_q, b_k) * log2_scale - b_lse[:, None]), visible, 0.0)
    if len(l_i) > 0:
        l_i = (l_i[0] + tl.sum(p, axis=1),)
    if len(acc) > 0:
        ds = p * (over_head(b_do, b_v) - b_delta[:, None])
        acc = onto_head(ds, b_k, acc)
    return l_i, acc


def backward_dq(
    call: Call, do: Tensor, dlse: Tensor | None, out: Tensor, lse: Tensor, need: bool
) -> tuple[RowTerms, Tensor]:
    """The terms of every row, norm for fp32 inputs only, and the gradient of q [B, Sq, H, D], empty where it is not needed."""
    batch, queries, heads, head = call.q.shape
    norm = torch.empty_like(lse) if call.q.dtype == torch.float32 else None
    terms = RowTerms(lse, torch.empty_like(lse), norm)
    dq = call.q.new_empty((batch, queries, heads, head) if need else 0)
    config = tile_config("backward_dq", head, call.q.element_size(), call.tile_rows, call.tile_keys, call.card)
    blocks = triton.cdiv(call.tile_rows, config.rows)
    with torch.cuda.device_of(call.q):
        block_sparse_delta_kernel[(batch * heads * triton.cdiv(queries, DELTA_ROWS),)](
            heads_of(out), heads_of(do), lse, dlse, terms.delta, *((None,) * 3 if dlse is None else dlse.stride()),
            queries, heads,
            UPCAST=upcast(call.q), **head_constants(head), BM=DELTA_ROWS, num_warps=4,
        )  # fmt: skip
        if need or norm is not None:
            block_sparse_backward_dq_kernel[(call.tiles.shape[0] * blocks * call.samples * heads,)](
                *call.heads, call.layout, heads_of(do), terms, dq,
                call.scale, queries, heads, call.group, call.samples, blocks, call.global_keys,
                NEED=need, GLOBAL=call.global_keys > 0, UPCAST=upcast(call.q),
                **head_constants(head), BM=config.rows, BN=config.keys,
                num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
            )  # fmt: skip
    return terms, dq
