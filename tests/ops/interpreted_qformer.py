"""qformer_attention beside its cases, in Triton's interpreter (see interpreted_cases.py): strides, 64-bit addresses, what is not
read, and several launches."""

import importlib

import pytest
import torch
from torch import Tensor

from longreel.ops.registry import OPS
from longreel.testing import far, poison
from longreel.testing.cases import corners
from longreel.testing.cases.case import Inputs
from longreel.testing.determinism import same_bits
from longreel.testing.runner import Run, Variant, layouts, low_level, prepare, run, yardstick

OP = "qformer_attention"
CASES = {case.name: case for case in corners(OP).cases()}


def inputs_of(name: str) -> Inputs:
    return prepare(CASES[name].inputs(), torch.float32)


def got(inputs: Inputs) -> Run:
    with poison():
        return run(
            OP, low_level(Variant(OP, "triton", "cpu")), inputs, [n for n in OPS[OP].differentiable if n in inputs]
        )


def check(inputs: Inputs) -> None:
    wanted = [name for name in OPS[OP].differentiable if name in inputs]
    yardstick(OP, inputs, torch.float32, wanted).check(got(inputs).everything)


@pytest.mark.parametrize("kind", ["gaps", "stepped", "swapped"])
def test_any_strides(kind: str) -> None:
    inputs = inputs_of("frames-masked-shared")
    check(inputs | {name: layouts(value)[kind] for name, value in inputs.items() if isinstance(value, Tensor)})


@pytest.mark.parametrize("dim", [0, 1])
def test_addresses_beyond_32_bits(dim: int) -> None:
    """The last entry of a dimension of every input that has a gradient."""
    inputs = inputs_of("table-of-one" if dim else "frames-masked-shared")
    read = {name: inputs[name] for name in OPS[OP].differentiable if name in inputs}
    check(inputs | {name: far(t, dim) for name, t in read.items() if dim < t.dim() - 1 and t.shape[dim] > 1})


def test_masked_keys_may_hold_anything() -> None:
    inputs = inputs_of("frames-masked-shared")
    read = inputs["key_mask"][..., None]
    zeros, numbers = (
        got(inputs | {"x": inputs["x"].masked_fill(~read, value)}).everything for value in (0.0, torch.nan)
    )
    assert all(same_bits(value, zeros[name]) for name, value in numbers.items())


@pytest.mark.parametrize("name", ["frames-masked-shared", "plain"])
def test_samples_of_several_launches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over samples go on from launch to launch, with queries that all samples share or that each has of its own."""
    forward = importlib.import_module("longreel.triton_kernels.qformer_attention.forward")
    monkeypatch.setattr(forward, "WORKSPACE", 1)
    check(inputs_of(name))
