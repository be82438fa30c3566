"""What the contract tests share: cases and variants of every op of the registry, yardsticks, calls. No op is named here.

The cases are in longreel/testing/cases/<op>.py. The truth is the reference in float64 on the rounded inputs, the yardstick the
reference in the dtype itself (plain PyTorch).
"""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from longreel import _native
from longreel.ops.registry import OPS
from longreel.testing.cases import corners
from longreel.testing.cases.case import Case, Inputs
from longreel.testing.runner import (
    DTYPES,
    Run,
    Variant,
    Yardstick,
    names,
    of_variant,
    prepare,
    run,
    variants,
    yardstick,
)

CASES: dict[str, list[Case]] = {op: corners(op).cases() for op in OPS}
SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def marked(variant: Variant, *more: Any) -> list[Any]:
    return [*more, pytest.mark.gpu] if variant.device == "cuda" else [*more]


KINDS = ("kernel", "composition", "reference")
OURS = ("kernel", "reference")


def over_variants(
    kinds: tuple[str, ...] = OURS, *, isas: bool = False, patches: bool = False, gradients: bool = False
) -> Any:
    """Parametrise over variants of these kinds; with `patches` of ops on patches, on the CPU; with `gradients` of ops that have
    one."""
    found = [
        variant
        for op in OPS
        if OPS[op].differentiable or not gradients
        for variant in variants(op, isas, kinds)
        if not (patches and (variant.device != "cpu" or "patches" not in names(op)[0]))
    ]
    return pytest.mark.parametrize("variant", [pytest.param(v, id=str(v), marks=marked(v)) for v in found])


def over(
    kinds: tuple[str, ...] = KINDS,
    *,
    isas: bool = False,
    fast_cases: bool = False,
    dtypes: Any = DTYPES,
    gradients: bool = False,
) -> Any:
    """Parametrise over variant, dtype and case that it serves. `make check` runs fast cases in float32 and bfloat16, kernels
    with the best instruction set; where `fast_cases` says that a test calls many times, one of them a kernel."""
    params, quick, taken = [], (None, *_native.cpu_isas()[-1:]), set[str]()
    for variant in (v for op in OPS if OPS[op].differentiable or not gradients for v in variants(op, isas, kinds)):
        for dtype in (dtype for dtype in dtypes if dtype in variant.row.dtypes):
            for case in CASES[variant.op]:
                if (case.fast or not fast_cases) and case.name not in refused(variant):
                    is_fast = case.fast and dtype is not torch.float16 and variant.isa in quick
                    is_fast &= not fast_cases or (variant.row.kind == "kernel" and str(variant) not in taken)
                    taken.add(str(variant))
                    fast = [pytest.mark.fast] if is_fast else []
                    name = f"{variant}-{SHORT[dtype]}-{case.name}"
                    params.append(pytest.param(variant, dtype, case, id=name, marks=marked(variant, *fast)))
    return pytest.mark.parametrize(("variant", "dtype", "case"), params)


def refused(variant: Variant) -> dict[str, str]:
    """The cases that the backend does not serve, with a word of the reason."""
    return getattr(corners(variant.op), "REFUSED", {}).get(variant.backend, {})


def narrow(variant: Variant) -> torch.dtype:
    """The first dtype that the backend takes."""
    return variant.row.dtypes[0]


def differentiable(op: str, inputs: Inputs) -> tuple[str, ...]:
    """Of the inputs, those that have a gradient."""
    return tuple(name for name in OPS[op].differentiable if name in inputs)


def fast_cases(op: str) -> list[Case]:
    return [case for case in CASES[op] if case.fast]


@cache
def of_case(op: str, dtype: torch.dtype, case: Case, through: tuple[str, ...] | None = None) -> Yardstick:
    inputs = case.inputs()
    return yardstick(op, prepare(inputs, dtype), dtype, differentiable(op, inputs), through)


def kernel_run(variant: Variant, inputs: Inputs, grad: tuple[str, ...] | None = None, through: Any = None) -> Run:
    """One call of the variant on inputs that lie on its device, and its backward; None: every gradient there is."""
    wanted = differentiable(variant.op, inputs) if grad is None else grad
    return run(variant.op, of_variant(variant), inputs, wanted, through, variant.isa)


def called(op: str, inputs: Inputs, backend: str) -> Any:
    """What the public function returns; where it changes arguments in place, those, as they are then."""
    result = OPS[op].public(**inputs, backend=backend)
    return [inputs[name].clone() for name in OPS[op].mutates] if OPS[op].mutates else result


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [value for value in result if value is not None]
