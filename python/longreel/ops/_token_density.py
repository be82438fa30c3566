"""token_density: how alike tokens are, each to each, and how densely they lie: what density peaks are found by."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from longreel.backends import LOW, Row, reference_row
from longreel.ops.common.arguments import check_tensors
from longreel.ops.common.cost import Cost, nbytes
from longreel.ops.common.queries import autocast, exact
from longreel.ops.op import Lowered, Op, run
from longreel.reference.token_density import token_density as reference
from longreel.schemas import arguments

NAME = "token_density"
Arguments = arguments(NAME)


class TokenDensity(NamedTuple):
    """likeness: ``[n, n]``, cosines. density: ``[n]``, exp(-mean d^2) over the 4 nearest others, d^2 = 2 - 2 cos; 1 of a token
    alone. denser: ``[n]``, the largest cosine with a denser token (of equal ones the first is denser); of the densest the least
    cosine with any. float32."""

    likeness: Tensor
    density: Tensor
    denser: Tensor


def token_density(x: Tensor, *, backend: str | None = None) -> TokenDensity:
    """How alike the tokens of a segment are, how densely each lies, and how near a denser one is.

    Density peaks among nearest neighbours (Du, Ding, Jia 2016): the peaks have the largest ``density * (2 - 2 denser) ** 0.5``.
    n x n numbers are made: a segment is as long as the caller has room for.

    Args:
        x: ``[n, C]``, float32, bfloat16 or float16 (float64 on the reference), any strides.
        backend: None chooses (see `longreel.explain`); a name that cannot run raises BackendError.

    Returns:
        `TokenDensity`. No gradient: it chooses.

    Raises:
        ValueError, TypeError: a shape or dtype that does not fit, naming what was given and what is allowed.
        BackendError: no backend, or not the one named, can run the call.
    """
    return TokenDensity(*run(OP, lower(x), backend))


def lower(x: Tensor) -> Lowered:
    """Checks, then the arguments of the low-level op."""
    check_tensors(x=x)
    if x.dim() != 2 or x.shape[1] == 0:
        raise ValueError(f"x must be [n, C] with C from 1 on, given {tuple(x.shape)}")
    (x,) = autocast(x)
    return Lowered(Arguments(x.detach()))


def run_reference(x: Tensor, same_dtype: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The reference with float32 arithmetic for narrower inputs; `same_dtype`: in the input's dtype throughout."""
    wide = torch.promote_types(x.dtype, torch.float32)
    with exact(x.device):
        made = reference(x if same_dtype else x.to(wide))
    likeness, density, denser = (one.to(wide) for one in made)
    return likeness, density, denser


def cost(x: Tensor) -> Cost:
    """Half of the products, one read, and the cosines written."""
    x = lower(x).args.x
    n, channels = x.shape
    return Cost(n * (n + 1) * channels, nbytes(x), 4 * n * (n + 2))


def fake(args: Any) -> tuple[Tensor, Tensor, Tensor]:
    n = args.x.shape[0]
    likeness, density, denser = (args.x.new_empty(size, dtype=torch.float32) for size in ((n, n), (n,), (n,)))
    return likeness, density, denser


OP = Op(
    NAME,
    token_density,
    lower,
    run_reference,
    cost,
    rows=(
        Row(NAME, "triton", ("cuda",), LOW, "products on tensor cores, cosines read twice from L2"),
        Row(NAME, "cpu", ("cpu",), LOW, "threaded, vectorised C++ that multiplies every two tokens once"),
        reference_row(NAME),
    ),
    fake=fake,
)
