"""token_scores: saliency by query, difference in time and uniqueness of every token, from one read of the features."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from longreel.backends import LOW, Row, reference_row
from longreel.ops.common.arguments import check_tensors
from longreel.ops.common.cost import Cost, nbytes
from longreel.ops.common.queries import autocast, check_pair, exact, resolve_scale
from longreel.ops.op import Lowered, Op, run
from longreel.reference.token_scores import token_scores as reference
from longreel.schemas import arguments

NAME = "token_scores"
Arguments = arguments(NAME)


class TokenScores(NamedTuple):
    """products: ``[F, N, M]``, scale * x . q_m. change: ``[F, N]``, 1 - cos(x_t, x_{t-1}) at the same place. uniqueness:
    ``[F, N]``, 1 - cos(x, the mean of its frame's tokens of length 1). float32."""

    products: Tensor
    change: Tensor
    uniqueness: Tensor


def token_scores(
    patches: Tensor,
    query: Tensor,
    *,
    before: Tensor | None = None,
    scale: float | None = None,
    backend: str | None = None,
) -> TokenScores:
    """Three numbers by which tokens of a video are chosen: what a question asks for, what changed, and what is unlike its frame.

    A video is scored in chunks of frames, `before` the last frame of the one before. The softmax of the products over all tokens
    of a video, averaged over the queries, is what `context_attention` returns as weights (LLaMA-VID, arXiv 2311.17043, equation
    1); `change` is the score of Efficient Video Sampling (arXiv 2510.14624). Tokens that are the same score the same.

    Args:
        patches: ``[F, N, C]``, float32, bfloat16 or float16 (float64 on the reference), any strides.
        query: ``[M, C]``, M from 0 on.
        before: ``[N, C]``, the frame before the first; None: `change` of the first is infinite.
        scale: None is ``C ** -0.5``.
        backend: None chooses (see `longreel.explain`); a name that cannot run raises BackendError.

    Returns:
        `TokenScores`. No gradient: scores choose.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, naming what was given and what is allowed.
        BackendError: no backend, or not the one named, can run the call.
    """
    lowered = lower(patches, query, before=before, scale=scale)
    return TokenScores(*run(OP, lowered, backend))


def lower(patches: Tensor, query: Tensor, *, before: Tensor | None = None, scale: float | None = None) -> Lowered:
    """Checks, then the arguments of the low-level op."""
    check_tensors(patches=patches, query=query, **({} if before is None else {"before": before}))
    if before is None:
        query, patches = autocast(query, patches)
    else:
        query, before, patches = autocast(query, before, patches)
    shape = check_pair(query, patches)
    if len(shape) != 3 or query.dim() != 2:
        raise ValueError(f"patches must be [F, N, C] and query [M, C], given {tuple(shape)} and {tuple(query.shape)}")
    if before is not None:
        if before.dtype != patches.dtype or before.device != patches.device:
            raise TypeError(
                f"before is {before.dtype} on {before.device} and patches are {patches.dtype} on {patches.device}: they must"
                " be alike"
            )
        if before.shape != shape[1:]:
            raise ValueError(f"before must be a frame {list(shape[1:])}, given {list(before.shape)}")
        before = before.detach()
    return Lowered(Arguments(patches.detach(), query.detach(), before, resolve_scale(scale, shape[-1])))


def run_reference(
    patches: Tensor, query: Tensor, before: Tensor | None, scale: float, same_dtype: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The reference with float32 arithmetic for narrower inputs; `same_dtype`: in the input's dtype throughout."""
    wide = patches.dtype if same_dtype else torch.promote_types(patches.dtype, torch.float32)
    out = torch.promote_types(patches.dtype, torch.float32)
    with exact(patches.device):
        made = reference(patches.to(wide), query.to(wide), None if before is None else before.to(wide), scale)
    products, change, uniqueness = (one.to(out) for one in made)
    return products, change, uniqueness


def cost(patches: Tensor, query: Tensor, *, before: Tensor | None = None, scale: float | None = None) -> Cost:
    """A product a query, and of itself, of the frame before (twice), of the mean and for it; one read."""
    args = lower(patches, query, before=before, scale=scale).args
    x, m = args.patches, args.query.shape[0]
    tokens = x.shape[0] * x.shape[1]
    return Cost(2 * (m + 5) * x.numel(), nbytes(x, args.query, args.before), 4 * tokens * (m + 2))


def fake(args: Any) -> tuple[Tensor, Tensor, Tensor]:
    frames, tokens, _ = args.patches.shape
    sizes = ((frames, tokens, args.query.shape[0]), (frames, tokens), (frames, tokens))
    products, change, uniqueness = (args.patches.new_empty(size, dtype=torch.float32) for size in sizes)
    return products, change, uniqueness


OP = Op(
    NAME,
    token_scores,
    lower,
    run_reference,
    cost,
    rows=(
        Row(NAME, "triton", ("cuda",), LOW, "a frame's later sweeps from L2"),
        Row(NAME, "cpu", ("cpu",), LOW, "threaded, vectorised C++ that reads the patches from memory once"),
        reference_row(NAME),
    ),
    fake=fake,
)
