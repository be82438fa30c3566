"""context_attention: the context token of every frame, without pooling."""

from longreel.triton_kernels.common.launch import DTYPES
from longreel.triton_kernels.frames.backward import backward
from longreel.triton_kernels.frames.forward import forward
from longreel.triton_kernels.frames.launch import borders
from torch import Tensor

__all__ = ["DTYPES", "context_attention", "context_attention_backward"]


def context_attention(
    query: Tensor, patches: Tensor, query_mask: Tensor | None, cu_seqlens: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """query [P, Q, M, C], patches [F, N, C] or packed [total, C], any strides -> context [P, F, C], fp32 weights [P, F, N]
    or [P, total], lse [P, F, M]."""
    return forward(query, patches, query_mask, scale, cu_seqlens=borders(cu_seqlens, patches.shape[0]))


def context_attention_backward(
    grad_context: Tensor | None, grad_weights: Tensor | None, query: Tensor, patches: Tensor, query_mask: Tensor | None,
    cu_seqlens: Tensor | None, lse: Tensor, scale: float, need_query: int, need_patches: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of query and patches, contiguous, empty where not asked for."""
    grad_patches = patches.new_empty(patches.shape if need_patches else (0,))
    if lse.numel() * patches.numel() * (need_query + need_patches) == 0:
        return query.new_zeros(query.shape if need_query else (0,)), grad_patches.zero_()
    grad_query = backward(
        grad_context, grad_weights, None, query, patches, query_mask, scale, need_query,
        grad_patches if need_patches else None, cu_seqlens=borders(cu_seqlens, patches.shape[0]),
    )  # fmt: skip
    return grad_query, grad_patches
