"""context_attention: the text query attends to a frame's patches and leaves one token."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from longreel.backends import LOW, SHORT, Row, reference_row
from longreel.layout.numbers import flag
from longreel.ops.common.arguments import check_dense, check_tensors
from longreel.ops.common.cost import Cost, nbytes
from longreel.ops.common.hopper import refused_by_clusters
from longreel.ops.common.queries import autocast, check_pair, exact, lower_queries, resolve_scale
from longreel.ops.op import Backward, Lowered, Op, run
from longreel.reference.context_attention import context_attention as reference
from longreel.schemas import arguments

NAME = "context_attention"
Arguments = arguments(NAME)


class Shape(NamedTuple):
    """Of the result: the prompts, whose product is P, and `*q` broadcast with (F,)."""

    prompts: tuple[int, ...]
    batch: tuple[int, ...]


def context_attention(
    query: Tensor,
    patches: Tensor,
    *,
    cu_seqlens: Tensor | None = None,
    scale: float | None = None,
    query_mask: Tensor | None = None,
    return_weights: bool = False,
    backend: str | None = None,
) -> Any:
    """Context token of every frame: ``E_f = mean_m(softmax_n(scale * q_m . x_n)) X_f``.

    LLaMA-VID (arXiv 2311.17043), section 3.1, equation 1, without its projections (`longreel.nn.ContextAttention` has
    them). The mean over the M queries is taken over the softmax rows, before the value product; it is exact.

    Args:
        query: ``[*q, M, C]`` text queries; ``*q`` broadcasts with ``(F,)``: ``[M, C]`` shared by all frames, ``[F, M, C]`` per
            frame, ``[P, 1, M, C]`` for P prompts, ``[P, F, M, C]`` for both. P prompts read the patches once.
        patches: ``[F, N, C]`` patch features, or packed ``[total, C]`` with `cu_seqlens`. Dtype and device of `query`:
            float32, bfloat16, float16 (float64 on the reference). Any strides.
        cu_seqlens: int32 or int64 ``[F + 1]``: frame f owns rows ``cu_seqlens[f]:cu_seqlens[f + 1]`` of packed patches.
        scale: factor on the scores. None is ``C ** -0.5`` (the released code); the paper's equation has 1.
        query_mask: bool, broadcasts to ``[*q, M]``, True for a valid row. Invalid rows do not enter the mean; a query set
            without a valid row gives 0.
        return_weights: also return the averaged softmax row, float32 ``[*, N]`` (``[*, total]`` if packed): which patches
            the question looked at. Differentiable.
        backend: None chooses (see `longreel.explain`); a name that cannot run raises BackendError.

    Returns:
        ``[*, C]`` in the input's dtype, prompt-major (``*`` is ``*q`` broadcast with ``(F,)``); with `return_weights` a pair.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, naming what was given and what is allowed.
        BackendError: no backend, or not the one named, can run the call.
    """
    flag("return_weights", return_weights)
    lowered = lower(query, patches, cu_seqlens=cu_seqlens, scale=scale, query_mask=query_mask)
    context, weights, _ = run(OP, lowered, backend)
    shape = lowered.rest
    context = context.reshape(*shape.batch, context.shape[-1])
    if not return_weights:
        return context
    lead = shape.batch if cu_seqlens is None else shape.prompts
    return context, weights.reshape(*lead, weights.shape[-1])


def lower(
    query: Tensor,
    patches: Tensor,
    *,
    cu_seqlens: Tensor | None = None,
    scale: float | None = None,
    query_mask: Tensor | None = None,
) -> Lowered:
    """Checks, then the arguments of the low-level op and the `Shape` of the result."""
    check_tensors(query=query, patches=patches)
    query, patches = autocast(query, patches)
    given = check_pair(query, patches)
    if cu_seqlens is None:
        if len(given) != 3:
            raise ValueError(f"patches must be [F, N, C] (or [total, C] with cu_seqlens), given {tuple(given)}")
        frames = given[0]
    else:
        check_dense("cu_seqlens", cu_seqlens)
        if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1 or cu_seqlens.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"cu_seqlens must be int32 or int64 [F + 1], given {cu_seqlens.dtype} {tuple(cu_seqlens.shape)}"
            )
        if len(given) != 2:
            raise ValueError(f"packed patches must be [total, C] where cu_seqlens is given, not {tuple(given)}")
        if cu_seqlens.device != patches.device:
            raise ValueError(f"cu_seqlens is on {cu_seqlens.device} and patches are on {patches.device}")
        if cu_seqlens.device.type == "cpu" and type(cu_seqlens) is Tensor and not torch.compiler.is_compiling():
            _check_bounds(cu_seqlens, given[0])
        frames = cu_seqlens.shape[0] - 1
    low_query, low_mask, prompts, shape = lower_queries(query, query_mask, frames)
    args = Arguments(low_query, patches, low_mask, cu_seqlens, resolve_scale(scale, given[-1]))
    return Lowered(args, Shape(prompts, shape))


def _check_bounds(cu_seqlens: Tensor, total: int) -> None:
    """On other devices, in compiled code and of fake tensors the values are not looked at: they would have to be waited for."""
    if cu_seqlens[0] != 0 or cu_seqlens[-1] != total or (cu_seqlens.diff() < 0).any():
        raise ValueError(f"cu_seqlens must rise from 0 to {total}, the packed patches; given {cu_seqlens.tolist()}")


def run_reference(
    query: Tensor, patches: Tensor, *rest: Any, same_dtype: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The reference with float32 arithmetic for narrower inputs, rounded once; `same_dtype`: in the input's dtype throughout."""
    wide = patches.dtype if same_dtype else torch.promote_types(patches.dtype, torch.float32)
    with exact(patches.device):
        context, weights, lse = reference(query.to(wide), patches.to(wide), *rest)
    return context.to(patches.dtype), weights, lse


def cost(query: Tensor, patches: Tensor, **options: Any) -> Cost:
    """Scores of every query, then one weighted sum a prompt: 2 M N C + 2 N C a frame and prompt."""
    args = lower(query, patches, **options).args
    prompts, _, m, c = args.query.shape
    x, packed = args.patches, args.cu_seqlens
    tokens = x.numel() // c
    frames = x.shape[0] if packed is None else packed.shape[0] - 1
    flops = 2 * prompts * (m + 1) * tokens * c
    written = prompts * (frames * c * x.element_size() + 4 * (tokens + frames * m))
    return Cost(flops, nbytes(*args), written)


def fake(args: Any) -> tuple[Tensor, Tensor, Tensor]:
    prompts, _, m, c = args.query.shape
    patches, packed = args.patches, args.cu_seqlens
    frames = patches.shape[0] if packed is None else packed.shape[0] - 1
    lead = (prompts, frames, patches.shape[1]) if packed is None else (prompts, patches.shape[0])
    return (
        patches.new_empty(prompts, frames, c),
        patches.new_empty(lead, dtype=torch.float32),
        patches.new_empty(prompts, frames, m, dtype=torch.float32),
    )


PASS = "one read of the patches, the second sweep from L2"
CLUSTERS = "CUDA C++ for Hopper: one read of the patches by clusters of blocks that share the channels; no sweep"
CPU_PASS = "threaded, vectorised C++ that reads the patches from memory once"

OP = Op(
    NAME,
    context_attention,
    lower,
    run_reference,
    cost,
    rows=(
        Row(NAME, "cuda", ("cuda",), LOW, f"CUDA C++: {PASS}; no compile at the first call"),
        Row(NAME, "triton", ("cuda",), LOW, PASS),
        Row(NAME, "cpu", ("cpu",), LOW, CPU_PASS),
        Row(NAME, "cluster", ("cuda",), SHORT, CLUSTERS, proven=False),
        reference_row(NAME),
    ),
    fake=fake,
    backward=Backward(),
    objections={"cluster": lambda lowered: refused_by_clusters(lowered.args.query, lowered.args.patches)},
)
