"""compress_frames: context token and content tokens of every frame in one read of its patches."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from longreel.backends import Request, choose
from longreel.ops import _context_attention as attention
from longreel.ops.common.call import call, register
from longreel.ops.common.cost import Cost, nbytes
from longreel.ops.common.queries import autocast, check_pair, exact, lower_queries, resolve_scale
from longreel.reference.compress_frames import compress_frames as reference
from longreel.reference.pool_geometry import PoolGeometry, pool_geometry
from longreel.schemas import overload as low_level

NAME = "compress_frames"


class CompressedFrames(NamedTuple):
    """context ``[*, C]``, content ``[F, n, C]``, weights float32 ``[*, N]`` or None."""

    context: Tensor
    content: Tensor
    weights: Tensor | None


def compress_frames(
    query: Tensor,
    patches: Tensor,
    *,
    output_size: int | tuple[int, int] | None = None,
    mode: str = "adaptive",
    grid: tuple[int, int] | None = None,
    num_prefix_tokens: int = 0,
    scale: float | None = None,
    query_mask: Tensor | None = None,
    return_weights: bool = False,
    backend: str | None = None,
) -> CompressedFrames:
    """`context_attention` and `adaptive_pool` of the same patches, which are read from memory once.

    LLaMA-VID (arXiv 2311.17043), section 3.1: one context token and n content tokens a frame.

    Args:
        query: ``[*q, M, C]`` text queries, ``*q`` broadcasting with ``(F,)``, as in `context_attention`.
        patches: ``[F, N, C]``, dtype and device of `query`: float32, bfloat16, float16 (float64 on the reference). Any
            strides.
        output_size, mode, grid: the content tokens, as in `adaptive_pool`.
        num_prefix_tokens: leading tokens (CLS) that take no part: neither in the pooling, nor in the softmax, nor in `weights`.
        scale: factor on the scores; None is ``C ** -0.5``.
        query_mask: bool, broadcasts to ``[*q, M]``, True for a valid row.
        return_weights: also return the averaged softmax row.
        backend: None chooses (see `longreel.explain`); a name that cannot run raises BackendError.

    Returns:
        CompressedFrames(context ``[*, C]`` prompt-major, content ``[F, n, C]``, weights float32
        ``[*, N - num_prefix_tokens]`` or None), the first two in the input's dtype.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices or a grid that do not fit, naming what was given and what is allowed.
        BackendError: no backend, or not the one named, can run the call.
    """
    args, shape = lower(
        query, patches, output_size=output_size, mode=mode, grid=grid, num_prefix_tokens=num_prefix_tokens,
        scale=scale, query_mask=query_mask,
    )  # fmt: skip
    request = Request(args[1].device.type, args[1].dtype)
    chosen = choose(NAME, backend, request)
    context, content, weights, _ = run_reference(*args) if chosen == "reference" else call(NAME, chosen, *args)
    return CompressedFrames(
        context.reshape(*shape, context.shape[-1]),
        content,
        weights.reshape(*shape, weights.shape[-1]) if return_weights else None,
    )


def lower(
    query: Tensor,
    patches: Tensor,
    *,
    output_size: int | tuple[int, int] | None = None,
    mode: str = "adaptive",
    grid: tuple[int, int] | None = None,
    num_prefix_tokens: int = 0,
    scale: float | None = None,
    query_mask: Tensor | None = None,
    **_: Any,
) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Checks, then the arguments of the low-level op and the batch shape of the result."""
    query, patches = autocast(query, patches)
    check_pair(query, patches)
    if patches.dim() != 3:
        raise ValueError(f"patches must be [F, N, C], given {tuple(patches.shape)}")
    geometry = pool_geometry(patches.shape[1], output_size, mode, grid, num_prefix_tokens)
    low_query, low_mask, _prompts, shape = lower_queries(query, query_mask, patches.shape[0])
    return (low_query, patches, low_mask, resolve_scale(scale, patches.shape[-1]), *geometry), shape


def run_reference(
    query: Tensor, patches: Tensor, query_mask: Tensor | None, scale: float, *geometry: int, same_dtype: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The reference with float32 arithmetic for narrower inputs, rounded once; `same_dtype`: in the input's dtype throughout."""
    wide = patches.dtype if same_dtype else torch.promote_types(patches.dtype, torch.float32)
    with exact(patches.device):
        context, content, weights, lse = reference(
            query.to(wide), patches.to(wide), query_mask, scale, PoolGeometry(*geometry)
        )
    return context.to(patches.dtype), content.to(patches.dtype), weights, lse


def cost(query: Tensor, patches: Tensor, **kwargs: Any) -> Cost:
    """Scores of every query and one weighted sum a prompt (2 M N C + 2 N C), and the additions of the pooling."""
    (q, x, mask, _, *rest), _ = lower(query, patches, **kwargs)
    geometry = PoolGeometry(*rest)
    prompts, _, m, c = q.shape
    frames, tokens = x.shape[0], x.shape[1] - geometry.prefix
    pooled = frames * (geometry.height * geometry.width + geometry.cells) * c
    flops = 2 * prompts * (m + 1) * frames * tokens * c + pooled
    read = nbytes(q, mask) + frames * tokens * c * x.element_size()
    written = frames * (prompts + geometry.cells) * c * x.element_size() + 4 * prompts * frames * (tokens + m)
    return Cost(flops, read, written)


def _fake(
    query: Tensor, patches: Tensor, query_mask: Any, scale: float,
    prefix: int, pitch: int, height: int, width: int, out_height: int, out_width: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    prompts, _, m, c = query.shape
    frames, tokens, _ = patches.shape
    return (
        patches.new_empty(prompts, frames, c),
        patches.new_empty(frames, out_height * out_width, c),
        patches.new_empty(prompts, frames, tokens - prefix, dtype=torch.float32),
        patches.new_empty(prompts, frames, m, dtype=torch.float32),
    )


def _fake_backward(
    grad_context: Any, grad_content: Any, grad_weights: Any, query: Tensor, patches: Tensor, query_mask: Any, lse: Any,
    scale: float, prefix: int, pitch: int, height: int, width: int, out_height: int, out_width: int,
    need_query: int, need_patches: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return attention.fake_grads(query, patches, need_query, need_patches)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, patches, query_mask, scale, *geometry = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, patches, query_mask, output[3])
    ctx.mark_non_differentiable(output[3])
    ctx.scale, ctx.geometry = scale, geometry


def _backward(backend: str) -> Any:
    op = low_level(f"{NAME}_backward", backend)

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        need_query, need_patches = ctx.needs_input_grad[:2]
        if all(g is None for g in grads[:3]):
            return (None,) * 10
        grad_query, grad_patches = op(
            *grads[:3], *ctx.saved_tensors, ctx.scale, *ctx.geometry, int(need_query), int(need_patches)
        )
        return grad_query if need_query else None, grad_patches if need_patches else None, *(None,) * 8

    return backward


register(NAME, _fake, _fake_backward, setup_context=_setup_context, backward=_backward)
