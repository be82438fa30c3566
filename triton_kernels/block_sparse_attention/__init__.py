"""block_sparse_attention: softmax attention over two key ranges per row, by the tiles of the plan."""

from collections.abc import Callable
from typing import Any

import torch
from longreel.triton_kernels.block_sparse_attention.backward_dkv import backward_dkv
from longreel.triton_kernels.block_sparse_attention.backward_dq import backward_dq
from longreel.triton_kernels.block_sparse_attention.config import keys_are_split
from longreel.triton_kernels.block_sparse_attention.decode import decode
from longreel.triton_kernels.block_sparse_attention.forward import forward
from longreel.triton_kernels.block_sparse_attention.launch import Call, call_of, with_own_global
from longreel.triton_kernels.common.launch import DTYPES
from torch import Tensor

__all__ = ["DTYPES", "block_sparse_attention", "block_sparse_attention_backward"]


def block_sparse_attention(*inputs: Any) -> tuple[Tensor, Tensor]:
    """`inputs` as in `Call`: q [B, Sq, H, D], k and v [B, Sk, Hkv, D], any strides, the plan -> out [B, Sq, H, D], lse fp32
    [B, H, Sq]."""
    return run(call_of(*inputs))


def block_sparse_attention_gluon(*inputs: Any) -> tuple[Tensor, Tensor]:
    """The same, many rows by the kernel for Hopper. Triton without Gluon has no such module."""
    from longreel.triton_kernels.block_sparse_attention import hopper

    return run(call_of(*inputs), hopper.forward)


def run(call: Call, many: Callable[[Call], tuple[Tensor, Tensor]] = forward) -> tuple[Tensor, Tensor]:
    """By the kernel for many rows or the one for few."""
    q = call.q
    if q.numel() == 0:
        batch, queries, heads, _ = q.shape
        return q.new_empty(q.shape), q.new_empty(batch, heads, queries, dtype=torch.float32)
    programs = call.tiles.shape[0] * call.samples * q.shape[2]
    few = keys_are_split(q.shape[1], call.k.shape[1] + call.global_keys, programs, call.card.multiprocessors)
    return decode(call) if few else many(call)


def block_sparse_attention_backward(
    grad_out: Tensor | None, grad_lse: Tensor | None, *inputs_and_results: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, global_k, global_v, contiguous; empty where not needed. After the forward's inputs come its
    out and lse, and whether q, k and v, global_k and global_v need a gradient."""
    *inputs, out, lse, need_q, need_kv, need_global = inputs_and_results
    call = call_of(*inputs)
    q = call.q
    if q.numel() == 0:
        needs = (need_q, need_kv, need_kv, need_global, need_global)
        grads = [q.new_zeros(t.shape if need and t is not None else 0) for t, need in zip(call, needs, strict=False)]
        return grads[0], grads[1], grads[2], grads[3], grads[4]
    if grad_out is None:
        grad_out = q.new_zeros(()).expand(q.shape)
    lse = lse.contiguous()
    terms, dq = backward_dq(with_own_global(call), grad_out, grad_lse, out, lse, bool(need_q))
    return dq, *backward_dkv(call, grad_out, terms, bool(need_kv), bool(need_global))


block_sparse_attention_backward_gluon = block_sparse_attention_backward
