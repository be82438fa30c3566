"""The op contract, values: outputs and gradients of every op of the registry on every backend this machine has."""

from itertools import combinations
from typing import Any

import pytest
import torch
from contract import (
    KINDS,
    called,
    differentiable,
    fast_cases,
    flat,
    kernel_run,
    narrow,
    of_case,
    over,
    over_variants,
)
from torch import Tensor

from longreel.ops.registry import OPS
from longreel.testing import assert_deterministic, check, poison
from longreel.testing.cases.case import Case
from longreel.testing.determinism import same_bits
from longreel.testing.runner import DTYPES, Recorder, Variant, names, outputs_of, prepare


@over(isas=True)
def test_equals_the_reference(variant: Variant, dtype: torch.dtype, case: Case) -> None:
    """Outputs and gradients under the error budget, on poisoned memory; inputs unchanged, outputs apart, shapes of the schema."""
    inputs = prepare(case.inputs(), dtype, variant.device)
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    before = {name: value.clone() for name, value in tensors.items()}
    with poison():
        got = kernel_run(variant, inputs)
    of_case(variant.op, dtype, case).check(got.everything)
    for name, value in tensors.items():
        assert same_bits(value, before[name]), f"{name} was changed in place"
    for name, grad in got.grads.items():
        assert (grad.dtype, grad.shape) == (inputs[name].dtype, inputs[name].shape), f"grad_{name}"
    stores = [t.untyped_storage().data_ptr() for t in (*tensors.values(), *got.everything.values()) if t.numel()]
    assert len(set(stores)) == len(stores), "an output shares memory with another, or with an input"


@over(dtypes=DTYPES[:2])
def test_public_function(variant: Variant, dtype: torch.dtype, case: Case) -> None:
    """The public function returns what its reference backend returns: structure, shapes, dtypes, values."""
    inputs = prepare(case.inputs(), dtype, variant.device)
    # Before the call, which may change them.
    same, wide = prepare(inputs, dtype), prepare(inputs, torch.float64)
    got = called(variant.op, inputs, variant.backend)
    expected, truth = called(variant.op, same, "reference"), called(variant.op, wide, "reference")
    assert type(got) is type(expected)
    for name, value, same, wide in zip(fields(got), flat(got), flat(expected), flat(truth), strict=True):
        assert (value.shape, value.dtype, value.device) == (same.shape, same.dtype, same.device), name
        check(name, value, wide, same, dtype)


@over(fast_cases=True, dtypes=DTYPES[:2], gradients=True)
def test_only_wanted_gradients(variant: Variant, dtype: torch.dtype, case: Case) -> None:
    """Every set of inputs that want a gradient, through every set of outputs that pass one: right, and nothing else made."""
    inputs = prepare(case.inputs(), dtype, variant.device)
    every = differentiable(variant.op, inputs)
    leaves = prepare(inputs, dtype, variant.device, every)
    outputs = outputs_of(variant, leaves)
    passing = tuple(name for name, output in zip(names(variant.op)[1], outputs, strict=True) if output.requires_grad)
    for through in subsets(passing):
        expected = of_case(variant.op, dtype, case, through)
        for wanted in subsets(every):
            with poison(), Recorder() as recorder:
                got = kernel_run(variant, inputs, wanted, through)
            assert set(got.grads) == set(wanted)
            expected.check({f"grad_{name}": grad for name, grad in got.grads.items()})
            for op, _, made in recorder.calls:
                if "_backward" in op.name():
                    sizes = [t.numel() for t in (made if isinstance(made, tuple) else (made,))]
                    expected_number = len(made_for(variant.op, wanted))
                    assert sum(size > 0 for size in sizes) == expected_number, f"{op} made {sizes} for {wanted}"


def made_for(op: str, wanted: tuple[str, ...]) -> set[str]:
    """The gradients that come with those wanted."""
    return {*wanted, *(name for group in OPS[op].gradients_together if {*group} & {*wanted} for name in group)}


def subsets(items: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [chosen for size in range(1, len(items) + 1) for chosen in combinations(items, size)]


def fields(result: Any) -> list[str]:
    if isinstance(result, Tensor):
        return ["output"]
    listed = getattr(result, "_fields", None) or [f"output {i}" for i in range(len(result))]
    return [name for name, value in zip(listed, result, strict=True) if value is not None]


@over_variants(KINDS)
def test_graph_is_clean(variant: Variant) -> None:
    """What has no gradient says so; a frozen call leaves no graph; a second derivative is refused, not wrong."""
    case = fast_cases(variant.op)[0]
    inputs = prepare(case.inputs(), narrow(variant), variant.device)
    assert not any(t.requires_grad for t in flat(called(variant.op, inputs, variant.backend)))
    every = differentiable(variant.op, inputs)
    leaves = prepare(inputs, narrow(variant), variant.device, every)
    outputs = outputs_of(variant, leaves)
    reference = variant.spec.reference(*variant.spec.lower(**prepare(leaves, narrow(variant), "cpu", every)))
    assert [t.requires_grad for t in outputs] == [t.requires_grad for t in reference]
    with torch.no_grad():
        assert not any(t.requires_grad for t in outputs_of(variant, leaves))
    if variant.backend != "reference" and every:
        wanted = [leaves[name] for name in every]
        loss = sum(t.double().square().sum() for t in outputs if t.requires_grad)
        grads = torch.autograd.grad(loss, wanted, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(sum(g.sum() for g in grads), wanted)


@over(KINDS[:2], isas=True, fast_cases=True, dtypes=DTYPES[:2])
def test_deterministic(variant: Variant, dtype: torch.dtype, case: Case) -> None:
    """Bit for bit over runs and thread counts, forward and backward."""
    inputs = prepare(case.inputs(frames=41), dtype, variant.device)
    assert_deterministic(lambda: kernel_run(variant, inputs).everything)
