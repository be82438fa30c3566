"""Every op inside what torch wraps a call in: torch.func, forward mode, meta and fake tensors, subclasses. No op is named.

Kernels have reverse-mode gradients of one order; the right derivative comes from the reference, which `backend=None` takes there,
and a kernel that is named says so.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.testing import assert_close

import longreel
from longreel.backends import BackendError
from longreel.ops.registry import OPS
from longreel.testing.cases import corners
from longreel.testing.cases.case import Case, Inputs
from longreel.testing.runner import prepare

DERIVED = [op for op, spec in OPS.items() if spec.differentiable]
FUNCTION = Callable[[Tensor], Tensor]


def first(op: str) -> Case:
    return next(case for case in corners(op).cases() if case.fast)


def tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for t in result or () if t is not None]


def as_function(op: str, inputs: Inputs, name: str, backend: str | None = None) -> FUNCTION:
    """The sum of the outputs' squares as a function of one input."""

    def function(value: Tensor) -> Tensor:
        outputs = tensors(OPS[op].public(**inputs | {name: value}, backend=backend))
        return torch.stack([torch.where(t.detach() > -1e30, t, 0).double().square().sum() for t in outputs]).sum()

    return function


def dual(function: FUNCTION, value: Tensor, tangent: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(value, tangent))).tangent


def ways(value: Tensor, tangent: Tensor) -> dict[str, Callable[[FUNCTION], Tensor]]:
    """The derivative along `tangent`, by every way that torch has."""
    return {
        "jvp": lambda f: torch.func.jvp(f, (value,), (tangent,))[1],
        "dual tensors": lambda f: dual(f, value, tangent),
        "linearize": lambda f: torch.func.linearize(f, value)[1](tangent),
        "jacfwd": lambda f: torch.func.jacfwd(lambda step: f(value + step * tangent))(torch.zeros(())),
        "grad": lambda f: (torch.func.grad(f)(value) * tangent).sum(),
        "vjp": lambda f: (torch.func.vjp(f, value)[1](torch.ones((), dtype=torch.float64))[0] * tangent).sum(),
        "jacrev": lambda f: (torch.func.jacrev(f)(value) * tangent).sum(),
        "grad of the compiled": lambda f: (torch.func.grad(torch.compile(f, backend="eager"))(value) * tangent).sum(),
        "jvp in the compiled": lambda f: torch.compile(lambda v, t: torch.func.jvp(f, (v,), (t,))[1], backend="eager")(
            value, tangent
        ),
    }


@pytest.mark.parametrize("op", DERIVED)
def test_derivatives_of_every_kind(op: str) -> None:
    inputs = prepare(first(op).inputs(), torch.float32)
    for name in (name for name in OPS[op].differentiable if name in inputs):
        value = inputs[name]
        tangent = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
        leaf = value.clone().requires_grad_()
        (slope,) = torch.autograd.grad(as_function(op, inputs, name)(leaf), leaf)
        expected = (slope * tangent).sum()
        for way, derivative in ways(value, tangent).items():
            torch._dynamo.reset()
            got = derivative(as_function(op, inputs, name))
            assert got is not None, f"{name}: {way}"
            assert_close(got.float(), expected, rtol=1e-3, atol=1e-4, msg=lambda m, w=way, n=name: f"{n}, {w}: {m}")


@pytest.mark.parametrize("op", DERIVED)
def test_kernel_named_under_a_transform_is_refused(op: str) -> None:
    inputs = prepare(first(op).inputs(), torch.float32)
    name = OPS[op].differentiable[0]
    named = [row.backend for row in OPS[op].rows if longreel.backends.refusal(row, request(op, inputs), True) is None]
    assert "reference" in named
    for backend in set(named) - {"reference"}:
        function = as_function(op, inputs, name, backend)
        for way, derivative in list(ways(inputs[name], inputs[name]).items())[:7]:
            with pytest.raises(BackendError, match="backend='reference'"):
                assert derivative(function) is way


def request(op: str, inputs: Inputs) -> Any:
    return OPS[op].request(OPS[op].lowered(**inputs))


@pytest.mark.parametrize("op", OPS)
def test_vmap_is_a_loop(op: str) -> None:
    inputs = prepare(first(op).inputs(), torch.float32)
    name = next(name for name, value in inputs.items() if isinstance(value, Tensor) and value.is_floating_point())
    several = torch.stack([inputs[name], inputs[name].flip(0)])

    def function(value: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors(OPS[op].public(**inputs | {name: value})))

    for got, *expected in zip(torch.func.vmap(function)(several), *map(function, several), strict=True):
        assert_close(got, torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", OPS)
def test_meta_tensors_give_shapes(op: str) -> None:
    """Of outputs and of gradients, for every backend that is named, in every mode."""
    for case in corners(op).cases():
        expected = OPS[op].public(**prepare(case.inputs(), torch.bfloat16), backend="reference")
        for backend in (None, *(row.backend for row in OPS[op].rows)):
            inputs = prepare(case.inputs(), torch.bfloat16, "meta", OPS[op].differentiable)
            with torch.autocast("cpu", torch.bfloat16, enabled=backend is None):
                got = OPS[op].public(**inputs, backend=backend)
            assert type(got) is type(expected)
            for one, same in zip(tensors(got), tensors(expected), strict=True):
                assert (one.shape, one.dtype, one.device.type) == (same.shape, same.dtype, "meta"), case.name
            passing = [t for t in tensors(got) if t.requires_grad]
            if passing:
                sum(t.sum() for t in passing).backward()
                grads = {name: inputs[name].grad for name in OPS[op].differentiable if name in inputs}
                assert all(grad.shape == inputs[name].shape for name, grad in grads.items() if grad is not None)
                assert any(grad is not None for grad in grads.values())


class Labelled(Tensor):
    """A subclass that computes as a tensor does."""


@pytest.mark.fast
@pytest.mark.parametrize("op", OPS)
def test_subclass_that_is_a_tensor(op: str) -> None:
    inputs = prepare(first(op).inputs(), torch.float32)
    given = {
        name: value.as_subclass(Labelled) if isinstance(value, Tensor) else value for name, value in inputs.items()
    }
    for got, expected in zip(tensors(OPS[op].public(**given)), tensors(OPS[op].public(**inputs)), strict=True):
        assert torch.equal(got.as_subclass(Tensor), expected)


@pytest.mark.parametrize("op", DERIVED)
def test_below_the_public_function_tangents_are_refused(op: str) -> None:
    """torch itself drops them without a word; an exported graph calls the ops so."""
    inputs = prepare(first(op).inputs(), torch.float32)
    arguments = OPS[op].lower(**inputs)
    backend = "cpu" if torch._C._dispatch_has_kernel_for_dispatch_key(f"longreel::{op}.cpu", "CPU") else "triton"
    kernel = getattr(getattr(torch.ops.longreel, op), backend)
    assert tensors(kernel(*arguments))
    name = next(n for n in OPS[op].differentiable if isinstance(getattr(arguments, n), Tensor))
    with forward_ad.dual_level():
        value = getattr(arguments, name)
        dual_value = forward_ad.make_dual(value, torch.ones_like(value))
        with pytest.raises(RuntimeError, match=f"longreel::{op}.{backend} has no forward-mode derivative"):
            kernel(*arguments._replace(**{name: dual_value}))
