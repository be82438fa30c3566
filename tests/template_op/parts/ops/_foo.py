"""foo: every element by a number."""

from typing import Any

import torch
from longreel.reference.foo import foo as reference
from torch import Tensor

from longreel.backends import LOW, Row, reference_row
from longreel.ops.common.arguments import check_tensors, number
from longreel.ops.common.cost import Cost, nbytes
from longreel.ops.common.queries import autocast
from longreel.ops.op import Backward, Lowered, Op, run
from longreel.schemas import arguments

NAME = "foo"
Arguments = arguments(NAME)


def foo(x: Tensor, *, scale: float | None = None, backend: str | None = None) -> Tensor:
    """``scale * x``; None is 2."""
    made: Tensor = run(OP, lower(x, scale=scale), backend)
    return made


def lower(x: Tensor, *, scale: float | None = None) -> Lowered:
    check_tensors(x=x)
    (x,) = autocast(x)
    if x.dim() != 2:
        raise ValueError(f"x must be [F, C], given {tuple(x.shape)}")
    return Lowered(Arguments(x, 2.0 if scale is None else number("scale", scale)))


def run_reference(x: Tensor, scale: float, same_dtype: bool = False) -> Tensor:
    wide = x.dtype if same_dtype else torch.promote_types(x.dtype, torch.float32)
    return reference(x.to(wide), scale).to(x.dtype)


def cost(x: Tensor, **options: Any) -> Cost:
    args = lower(x, **options).args
    return Cost(args.x.numel(), nbytes(*args), nbytes(*args))


def fake(args: Any) -> Tensor:
    made: Tensor = args.x.new_empty(args.x.shape)
    return made


OP = Op(
    NAME,
    foo,
    lower,
    run_reference,
    cost,
    rows=(
        Row(NAME, "triton", ("cuda",), LOW, "one read, one write"),
        Row(NAME, "cpu", ("cpu",), LOW, "one read, one write"),
        reference_row(NAME),
    ),
    fake=fake,
    backward=Backward(sizes={"columns": lambda args: args.x.shape[1]}, fake=lambda args: fake_like(args.grad_output)),
)


def fake_like(grad: Tensor) -> Tensor:
    return grad.new_empty(grad.shape)
