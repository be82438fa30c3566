"""compress_frames: context token and content tokens of every frame in one read of its patches."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from longreel.backends import LOW, SHORT, Row, reference_row
from longreel.layout.numbers import flag
from longreel.ops.common.arguments import check_tensors
from longreel.ops.common.cost import Cost, nbytes
from longreel.ops.common.hopper import refused_by_clusters
from longreel.ops.common.queries import autocast, check_pair, exact, lower_queries, resolve_scale
from longreel.ops.op import Backward, Lowered, Op, run
from longreel.reference.compress_frames import compress_frames as reference
from longreel.reference.pool_geometry import PoolGeometry, pool_geometry
from longreel.schemas import arguments

NAME = "compress_frames"
Arguments = arguments(NAME)


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
    flag("return_weights", return_weights)
    lowered = lower(
        query, patches, output_size=output_size, mode=mode, grid=grid, num_prefix_tokens=num_prefix_tokens,
        scale=scale, query_mask=query_mask,
    )  # fmt: skip
    context, content, weights, _ = run(OP, lowered, backend)
    shape = lowered.rest
    return CompressedFrames(
        context.reshape(*shape, patches.shape[-1]),
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
) -> Lowered:
    """Checks, then the arguments of the low-level op, and the batch shape of the result."""
    check_tensors(query=query, patches=patches)
    query, patches = autocast(query, patches)
    given = check_pair(query, patches)
    if len(given) != 3:
        raise ValueError(f"patches must be [F, N, C], given {tuple(given)}")
    frames, tokens, width = given
    geometry = pool_geometry(tokens, output_size, mode, grid, num_prefix_tokens)
    low_query, low_mask, _prompts, shape = lower_queries(query, query_mask, frames)
    return Lowered(Arguments(low_query, patches, low_mask, resolve_scale(scale, width), *geometry), shape)


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


def cost(query: Tensor, patches: Tensor, **options: Any) -> Cost:
    """Scores of every query and one weighted sum a prompt (2 M N C + 2 N C), and the additions of the pooling."""
    args = lower(query, patches, **options).args
    q, x = args.query, args.patches
    prompts, _, m, c = q.shape
    frames, tokens, cells = x.shape[0], x.shape[1] - args.prefix, args.out_height * args.out_width
    pooled = frames * (args.height * args.width + cells) * c
    flops = 2 * prompts * (m + 1) * frames * tokens * c + pooled
    read = nbytes(q, args.query_mask) + frames * tokens * c * x.element_size()
    written = frames * (prompts + cells) * c * x.element_size() + 4 * prompts * frames * (tokens + m)
    return Cost(flops, read, written)


def fake(args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    prompts, _, m, c = args.query.shape
    patches = args.patches
    frames, tokens, _ = patches.shape
    return (
        patches.new_empty(prompts, frames, c),
        patches.new_empty(frames, args.out_height * args.out_width, c),
        patches.new_empty(prompts, frames, tokens - args.prefix, dtype=torch.float32),
        patches.new_empty(prompts, frames, m, dtype=torch.float32),
    )


PASS = "one read of the patches, the second sweep from L2"
CLUSTERS = "CUDA C++ for Hopper: one read of the patches by clusters of blocks that share the channels; no sweep"

OP = Op(
    NAME,
    compress_frames,
    lower,
    run_reference,
    cost,
    rows=(
        Row(NAME, "cuda", ("cuda",), LOW, f"CUDA C++: {PASS}; no compile at the first call"),
        Row(NAME, "triton", ("cuda",), LOW, PASS),
        Row(NAME, "cpu", ("cpu",), LOW, "threaded, vectorised C++ that reads the patches from memory once"),
        Row(NAME, "cluster", ("cuda",), SHORT, CLUSTERS, proven=False),
        reference_row(NAME),
    ),
    fake=fake,
    backward=Backward(),
    objections={"cluster": lambda lowered: refused_by_clusters(lowered.args.query, lowered.args.patches)},
)
