"""qformer_attention: few queries over very many keys, the projections of keys and values absorbed (`forward` has the maths)."""

import torch
from longreel.triton_kernels.common.launch import DTYPES
from longreel.triton_kernels.qformer_attention.backward import Gradients, backward
from longreel.triton_kernels.qformer_attention.forward import forward
from longreel.triton_kernels.qformer_attention.launch import QFormerCall
from torch import Tensor

__all__ = ["DTYPES", "qformer_attention", "qformer_attention_backward"]


def qformer_attention(
    query: Tensor, x: Tensor, w_k: Tensor, w_v: Tensor, b_v: Tensor | None, key_mask: Tensor | None,
    frame_table: Tensor | None, frame_size: int, num_heads: int, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """query [B or 1, Nq, H D], x [B, S, C], weights [H D, C], any strides -> out fp32 [B, Nq, H D], lse fp32 [B, H, Nq]."""
    call = QFormerCall(query, x, w_k, w_v, b_v, key_mask, frame_table, frame_size, num_heads, scale)
    if x.numel() * query.numel() == 0:
        out = torch.zeros(x.shape[0], *query.shape[1:], dtype=torch.float32, device=x.device)
        return out, out.new_full((x.shape[0], num_heads, query.shape[1]), -torch.inf)
    return forward(call)


def qformer_attention_backward(
    grad_out: Tensor | None, query: Tensor, x: Tensor, w_k: Tensor, w_v: Tensor, b_v: Tensor | None, key_mask: Tensor | None,
    frame_table: Tensor | None, frame_size: int, num_heads: int, scale: float, out: Tensor, lse: Tensor,
    need_query: int, need_x: int, need_w_k: int, need_w_v: int, need_b_v: int, need_frame_table: int,
) -> Gradients:  # fmt: skip
    """Gradients of query, x, w_k, w_v, b_v and frame_table, contiguous; empty where not needed. grad_out and out fp32
    [B, Nq, H D], lse as the forward gives it."""
    call = QFormerCall(query, x, w_k, w_v, b_v, key_mask, frame_table, frame_size, num_heads, scale)
    need = Gradients(need_query, need_x, need_w_k, need_w_v, need_b_v, need_frame_table)
    if grad_out is None or x.numel() * query.numel() == 0:
        given = (query, x, w_k, w_v, b_v, frame_table)
        made = (x.new_zeros(t.shape if wanted and t is not None else 0) for t, wanted in zip(given, need, strict=True))
        return Gradients(*made)
    return backward(call, grad_out, out, lse, need)
