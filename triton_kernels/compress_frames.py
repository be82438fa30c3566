"""compress_frames: the context token and the pooled content tokens of every frame."""

from longreel.triton_kernels.adaptive_pool import adaptive_pool, adaptive_pool_backward
from longreel.triton_kernels.common.launch import DTYPES
from longreel.triton_kernels.common.pool_window import pool_window
from longreel.triton_kernels.frames.backward import backward
from longreel.triton_kernels.frames.forward import forward
from torch import Tensor

__all__ = ["DTYPES", "compress_frames", "compress_frames_backward"]


def compress_frames(
    query: Tensor, patches: Tensor, query_mask: Tensor | None, scale: float,
    prefix: int, pitch: int, height: int, width: int, out_height: int, out_width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """query [P, Q, M, C], patches [F, N, C], any strides -> context [P, F, C], content [F, out_height * out_width, C],
    weights fp32 [P, F, N - prefix], lse fp32 [P, F, M]."""
    tokens = patches[:, prefix:]
    prompts, _, queries, _ = query.shape
    if prompts * queries * patches.shape[0] * height * width * out_height * out_width == 0:
        content = adaptive_pool(patches, prefix, pitch, height, width, out_height, out_width)
        context, weights, lse = forward(query, tokens, query_mask, scale)
        return context, content, weights, lse
    window = pool_window(pitch, height, width, out_height, out_width)
    content = patches.new_empty(patches.shape[0], out_height * out_width, patches.shape[2])
    context, weights, lse = forward(query, tokens, query_mask, scale, window, content)
    return context, content, weights, lse


def compress_frames_backward(
    grad_context: Tensor | None, grad_content: Tensor | None, grad_weights: Tensor | None, query: Tensor, patches: Tensor,
    query_mask: Tensor | None, lse: Tensor, scale: float,
    prefix: int, pitch: int, height: int, width: int, out_height: int, out_width: int,
    need_query: int, need_patches: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of query and patches, contiguous, empty where not asked for."""
    geometry = (prefix, pitch, height, width, out_height, out_width)
    pooled = grad_content is not None and grad_content.numel() * height * width > 0
    attended = (grad_context is not None or grad_weights is not None) and lse.numel() * (patches.shape[1] - prefix) > 0
    if not attended or not (need_query or need_patches):
        grad_query = query.new_zeros(query.shape if need_query else (0,))
        if not need_patches:
            return grad_query, patches.new_empty(0)
        if not pooled:
            return grad_query, patches.new_zeros(patches.shape)
        return grad_query, adaptive_pool_backward(grad_content, patches.shape[1], *geometry)
    grad_patches = patches.new_empty(patches.shape if need_patches else (0,))
    if need_patches:
        grad_patches[:, :prefix].zero_()
    grad_query = backward(
        grad_context, grad_weights, grad_content if pooled else None, query, patches[:, prefix:], query_mask, scale,
        need_query, grad_patches[:, prefix:] if need_patches else None, pool_window(*geometry[1:]) if pooled else None,
    )  # fmt: skip
    return grad_query, grad_patches
