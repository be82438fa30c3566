"""block_sparse_attention: softmax attention over two key ranges per row, by the tiles of the plan."""

import torch
from longreel.triton_kernels.block_sparse_attention_backward_keys import keys_backward
from longreel.triton_kernels.block_sparse_attention_backward_rows import rows_backward
from longreel.triton_kernels.block_sparse_attention_call import call_of
from longreel.triton_kernels.block_sparse_attention_config import keys_are_split
from longreel.triton_kernels.block_sparse_attention_decode import decode
from longreel.triton_kernels.block_sparse_attention_forward import forward
from longreel.triton_kernels.block_sparse_attention_signatures import aot_signatures
from longreel.triton_kernels.launch import DTYPES
from torch import Tensor

__all__ = ["DTYPES", "aot_signatures", "block_sparse_attention", "block_sparse_attention_backward"]


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    global_k: Tensor | None,
    global_v: Tensor | None,
    global_index: Tensor,
    start: Tensor,
    bounds: Tensor,
    tiles: Tensor,
    order: Tensor,
    units: Tensor,
    runs: Tensor,
    unit_order: Tensor,
    tile_rows: int,
    tile_keys: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """q [B, Sq, H, D], k and v [B, Sk, Hkv, D], any strides, and the plan -> out [B, Sq, H, D], lse fp32 [B, H, Sq]."""
    call = call_of(
        q, k, v, global_k, global_v, global_index, start, bounds,
        tiles, order, units, runs, unit_order, tile_rows, tile_keys, scale,
    )  # fmt: skip
    if q.numel() == 0:
        batch, queries, heads, _ = q.shape
        return q.new_empty(q.shape), q.new_empty(batch, heads, queries, dtype=torch.float32)
    programs = tiles.shape[0] * call.samples * q.shape[2]
    few = keys_are_split(q.shape[1], k.shape[1] + call.places, programs, call.card[1])
    return decode(call) if few else forward(call)


def block_sparse_attention_backward(
    grad_out: Tensor | None,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    global_k: Tensor | None,
    global_v: Tensor | None,
    global_index: Tensor,
    start: Tensor,
    bounds: Tensor,
    tiles: Tensor,
    order: Tensor,
    units: Tensor,
    runs: Tensor,
    unit_order: Tensor,
    tile_rows: int,
    tile_keys: int,
    scale: float,
    out: Tensor,
    lse: Tensor,
    need_q: int,
    need_kv: int,
    need_global: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, global_k, global_v, contiguous; empty where not needed."""
    call = call_of(
        q, k, v, global_k, global_v, global_index, start, bounds,
        tiles, order, units, runs, unit_order, tile_rows, tile_keys, scale,
    )  # fmt: skip
    if q.numel() == 0:
        needs = ((q, need_q), (k, need_kv), (v, need_kv), (global_k, need_global), (global_v, need_global))
        grads = [q.new_zeros(t.shape if need and t is not None else 0) for t, need in needs]
        return grads[0], grads[1], grads[2], grads[3], grads[4]
    if grad_out is None:
        grad_out = q.new_zeros(()).expand(q.shape)
    lse = lse.contiguous()
    delta, factor, grad_q = rows_backward(call, grad_out, grad_lse, out, lse, bool(need_q))
    return grad_q, *keys_backward(call, grad_out, lse, delta, factor, bool(need_kv), bool(need_global))
