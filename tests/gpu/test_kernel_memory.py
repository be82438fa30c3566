"""What a kernel must not read may hold anything, and what it must write is written: NaN beside its inputs and in fresh memory."""

import pytest
import torch
from gpu_cases import (
    VARIANTS,
    Case,
    Variant,
    check_against_truth,
    differentiable,
    drawn,
    each_case,
    each_dtype,
    kernel,
)
from torch import Tensor

from longreel.testing import poison
from longreel.testing.cases.case import Inputs
from longreel.testing.cases.frames import TOWER, frames_case
from longreel.testing.determinism import same_bits
from longreel.testing.runner import Run

# Entries beside a tensor: whole vectors in the last dimension, so that aligned rows stay aligned.
ROWS, CHANNELS = 1, 16


def amid(tensor: Tensor, value: float) -> Tensor:
    """The same values in the middle of memory that holds `value`, in every dimension."""
    margins = [*[ROWS] * (tensor.dim() - 1), CHANNELS]
    shape = [size + 2 * margin for size, margin in zip(tensor.shape, margins, strict=True)]
    inside = tuple(slice(margin, -margin) for margin in margins)
    return torch.full(shape, value, dtype=tensor.dtype, device=tensor.device)[inside].copy_(tensor)


def placed(variant: Variant, inputs: Inputs, value: float) -> Inputs:
    return inputs | {name: amid(inputs[name], value) for name in differentiable(variant, inputs)}


def same(got: Run, expected: Run) -> None:
    for name, value in expected.everything.items():
        assert same_bits(got.everything[name], value), name


@each_case
@each_dtype
def test_nothing_beside_an_input_is_read(variant: Variant, case: Case, dtype: torch.dtype) -> None:
    """Forward and backward: the bits are those of zeros around it."""
    inputs = drawn(case, dtype, frames=min(case.frames, 5))
    clean = kernel(variant, placed(variant, inputs, 0.0))
    with poison():
        same(kernel(variant, placed(variant, inputs, torch.nan)), clean)


@each_case
@each_dtype
def test_every_output_is_written_without_gradients(variant: Variant, case: Case, dtype: torch.dtype) -> None:
    """A forward alone may take another kernel than one that a backward follows."""
    inputs = drawn(case, dtype, frames=min(case.frames, 5))
    with poison():
        got = kernel(variant, inputs, grad=False)
    check_against_truth(variant, inputs, dtype, got)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "frames" in v.op or "context" in v.op], ids=str)
@each_dtype
def test_queries_that_do_not_count_may_hold_anything(variant: Variant, dtype: torch.dtype) -> None:
    pooling = {} if variant.op == "context_attention" else {"mode": "mean"}
    case = frames_case("masked", lead=(2, -1), masked=True, **TOWER, **pooling, frames=4, return_weights=True)
    inputs = drawn(case, dtype)
    query, mask = inputs["query"], inputs["query_mask"][..., None]
    clean = kernel(variant, {**inputs, "query": query.masked_fill(~mask, 0.0)})
    with poison():
        same(kernel(variant, {**inputs, "query": query.masked_fill(~mask, torch.nan)}), clean)
