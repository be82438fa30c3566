"""What the gpu tests run: every kernel that the backend table offers on CUDA, at real sizes."""

from typing import Any

import pytest
import torch

from longreel.ops.registry import OPS
from longreel.testing import check
from longreel.testing.cases import corners
from longreel.testing.cases.case import Case, Inputs
from longreel.testing.runner import DTYPES, Run, Variant, low_level, prepare, run

SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}

# An op without a kernel for cards has none.
CASES = {
    op: corners(op).gpu_cases()
    for op, spec in OPS.items()
    if any(row.backend in ("cuda", "triton") for row in spec.rows)
}
# How a kernel lives with the rest of a program is asked of each way it has to run: the first case, and decoding.
LIVED = {op: [case for case in listed if case is listed[0] or case.name == "decode"] for op, listed in CASES.items()}
# The input whose values a test changes.
MAIN = {op: "patches" if "patches" in OPS[op].differentiable else [*OPS[op].differentiable, "k"][0] for op in CASES}

# Not those whose values were never right on a card: `make gpu` looks at these first, and by themselves.
VARIANTS = [
    Variant(op, row.backend, "cuda")
    for op in CASES
    for row in OPS[op].rows
    if "cuda" in row.devices and row.kind == "kernel" and row.proven
]


def _over(cases: dict[str, list[Case]], variants: list[Variant]) -> Any:
    params = [pytest.param(v, c, id=f"{v}-{c.name}") for v in variants for c in cases[v.op]]
    return pytest.mark.parametrize(("variant", "case"), params)


each_case, each_lived = _over(CASES, VARIANTS), _over(LIVED, VARIANTS)
each_with_backward = _over(LIVED, [v for v in VARIANTS if v.spec.backward is not None])
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=SHORT.get)


def drawn(case: Case, dtype: torch.dtype = torch.bfloat16, frames: int | None = None, device: str = "cuda") -> Inputs:
    return prepare(case.inputs(frames), dtype, device)


def tensors(inputs: Inputs) -> list[str]:
    """Names of the floating arguments."""
    return [name for name, value in inputs.items() if isinstance(value, torch.Tensor) and value.is_floating_point()]


def differentiable(variant: Variant, inputs: Inputs) -> tuple[str, ...]:
    return tuple(name for name in variant.spec.differentiable if name in inputs)


def kernel(variant: Variant, inputs: Inputs, grad: bool = True) -> Run:
    return run(variant.op, low_level(variant), inputs, differentiable(variant, inputs) if grad else ())


def check_against_truth(variant: Variant, inputs: Inputs, dtype: torch.dtype, got: Run) -> None:
    """The error budget: truth in float64, yardstick in `dtype`, both by the reference on the same device."""
    spec, wanted = variant.spec, tuple(got.grads)
    truth = run(variant.op, spec.reference, prepare(inputs, torch.float64, "cuda"), wanted).everything
    plain = run(
        variant.op, lambda *args: spec.reference(*args, same_dtype=True), prepare(inputs, dtype, "cuda"), wanted
    ).everything
    for name, value in got.everything.items():
        check(name, value, truth[name], plain[name], dtype)
