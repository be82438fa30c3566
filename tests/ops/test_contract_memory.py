"""The op contract, memory: any strides, also beyond 2^31 elements."""

from functools import cache

import pytest
import torch
from contract import (
    CASES,
    KINDS,
    SHORT,
    differentiable,
    fast_cases,
    kernel_run,
    narrow,
    of_case,
    over,
    over_variants,
    refused,
)
from torch import Tensor

from longreel.testing import far, hour
from longreel.testing.cases.case import Case, normal
from longreel.testing.runner import DTYPES, Variant, Yardstick, layouts, names, outputs_of, prepare, yardstick

# How far two results may differ that should be one.
TIGHT = {torch.float32: 1e-5, torch.bfloat16: 0.0}


@over(isas=True, fast_cases=True, dtypes=DTYPES[:2])
def test_any_strides(variant: Variant, dtype: torch.dtype, case: Case) -> None:
    """Every tensor argument under every layout; upstream gradients that are expanded and transposed."""
    inputs = prepare(case.inputs(), dtype, variant.device)
    for name, value in list(inputs.items()):
        if not isinstance(value, Tensor) or "cu_seqlens" in name:
            continue
        for layout, view in layouts(value).items():
            moved = {**inputs, name: view}
            expected = (
                of_case(variant.op, dtype, case) if layout != "repeated" else of_repeated(variant.op, dtype, case, name)
            )
            try:
                expected.check(kernel_run(variant, moved).everything)
            except AssertionError as error:
                raise AssertionError(f"{name} {layout}: {error}") from None
    for name, value in inputs.items():
        if "cu_seqlens" in name:
            stepped = value.new_empty(2 * value.numel())[::2].copy_(value)
            for given in (stepped, value.int()):
                of_case(variant.op, dtype, case).check(kernel_run(variant, {**inputs, name: given}).everything)


@cache
def of_repeated(op: str, dtype: torch.dtype, case: Case, name: str) -> Yardstick:
    rounded = prepare(case.inputs(), dtype)
    moved = {**rounded, name: layouts(rounded[name])["repeated"]}
    return yardstick(op, moved, dtype, differentiable(op, rounded))


@over_variants(KINDS[:2], gradients=True)
def test_any_upstream_strides(variant: Variant) -> None:
    """Upstream gradients that are expanded, or transposed."""
    for case in (case for case in fast_cases(variant.op) if case.name not in refused(variant)):
        inputs = prepare(case.inputs(), narrow(variant), variant.device)
        leaves = {name: inputs[name].requires_grad_() for name in differentiable(variant.op, inputs)}
        outputs = [t for t in outputs_of(variant, inputs) if t.requires_grad]
        plain = [torch.full_like(t, 0.5) for t in outputs]
        expected = torch.autograd.grad(outputs, list(leaves.values()), plain, retain_graph=True)
        for upstream in (
            [t.new_full((), 0.5).expand(t.shape) for t in outputs],
            [t.transpose(0, -1).contiguous().transpose(0, -1) for t in plain],
        ):
            got = torch.autograd.grad(outputs, list(leaves.values()), upstream, retain_graph=True)
            for name, grad, same in zip(leaves, got, expected, strict=True):
                torch.testing.assert_close(
                    grad,
                    same,
                    rtol=TIGHT[narrow(variant)],
                    atol=TIGHT[narrow(variant)],
                    msg=lambda m, n=name: f"grad_{n}: {m}",
                )


@over_variants(("kernel",), isas=True)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=SHORT.get)
def test_strides_beyond_32_bits(variant: Variant, dtype: torch.dtype) -> None:
    """Each floating argument strided so that its last entry lies beyond 2^31 elements."""
    for case in fast_cases(variant.op):
        inputs = prepare(case.inputs(), dtype, variant.device)
        for name, value in inputs.items():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            for dim in range(value.dim() - 1):
                if value.shape[dim] > 1:
                    got = kernel_run(variant, {**inputs, name: far(value, dim)})
                    of_case(variant.op, dtype, case).check(got.everything)


# Names have one meaning in every op: where a tensor of a name has its frames.
FRAME_AXIS = {
    "patches": 0, "grad_patches": 0, "content": 0, "output": 0, "context": 1, "weights": 1, "lse": 1,
    "products": 0, "change": 0, "uniqueness": 0,
}  # fmt: skip


@over_variants(("kernel",), patches=True)
def test_hour_of_patches(variant: Variant) -> None:
    """[6000, 256, 1408] patches pass 2^31 elements: the last frames come out right."""
    check_hour(variant, ())


@over_variants(("kernel",), patches=True, gradients=True)
def test_hour_of_gradients(variant: Variant) -> None:
    """So does their gradient, the one tensor here that is all memory (4.3 GB)."""
    check_hour(variant, ("patches",))


def check_hour(variant: Variant, wanted: tuple[str, ...]) -> None:
    frames, dtype = 2, torch.bfloat16
    case = next(case for case in CASES[variant.op] if case.name == "wide")
    own = {"patches": normal(torch.Generator().manual_seed(1), frames, 256, 1408)}
    if "before" in names(variant.op)[0]:
        # As the hour's other frames are.
        own["before"] = torch.zeros_like(own["patches"][0])
    small = prepare(case.inputs(frames) | own, dtype)
    expected = yardstick(variant.op, small, dtype, ("patches",))
    got = kernel_run(variant, {**small, "patches": hour(small["patches"])}, wanted)
    expected.check(
        {
            name: value.narrow(FRAME_AXIS[name], value.shape[FRAME_AXIS[name]] - frames, frames)
            for name, value in got.everything.items()
        }
    )
