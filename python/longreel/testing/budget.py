"""The error budget: a result may be at most 1.5 times as far from the truth as PyTorch's own in the same dtype, or a floor."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Errors:
    """Largest error over the largest true value, and rms error over the rms of the truth."""

    max_rel: float
    rms_rel: float

    def within(self, limit: "Errors") -> bool:
        return self.max_rel <= limit.max_rel and self.rms_rel <= limit.rms_rel

    def __str__(self) -> str:
        return f"max_rel {self.max_rel:.2e}, rms_rel {self.rms_rel:.2e}"


SLACK = 1.5
# Code that is not ours need only compute the same thing; how it rounds is its own (torch's CPU flash attention has an exp of
# 20 bits).
PEER_BUDGETS = 3.0
FLOORS = {
    torch.float32: Errors(2e-6, 5e-7),
    torch.float16: Errors(2e-3, 5e-4),
    torch.bfloat16: Errors(1.6e-2, 4e-3),
}


def errors(got: Tensor, truth: Tensor, unit: float = 0.0) -> Errors:
    """Distance of `got` from `truth`, counted in float64.

    Infinities must stand where the truth has them, with its sign; they and any NaN in `got` count as an infinite error.
    `unit` is the size below which the truth counts as zero: errors are relative to it there. Without one, a truth that is
    zero throughout asks for exact zeros.
    """
    if got.shape != truth.shape:
        raise AssertionError(f"shape {tuple(got.shape)}, the truth has {tuple(truth.shape)}")
    truth = truth.double()
    difference = torch.where(got == truth, 0.0, got.double() - truth)
    if difference.numel() == 0:
        return Errors(0.0, 0.0)
    if not difference.isfinite().all():
        return Errors(torch.inf, torch.inf)
    finite = torch.where(truth.isfinite(), truth, 0.0)
    return Errors(
        _ratio(difference.abs().max().item(), max(finite.abs().max().item(), unit)),
        _ratio(difference.square().mean().sqrt().item(), max(finite.square().mean().sqrt().item(), unit)),
    )


def allowed(baseline: Errors, dtype: torch.dtype) -> Errors:
    """max(1.5 x `baseline`, floor of `dtype`), where `baseline` is the error of plain PyTorch computing in `dtype`.

    One that is infinite or no number is no yardstick, or everything would be allowed: the floor is all there is.
    """
    floor = FLOORS[dtype]
    if not (math.isfinite(baseline.max_rel) and math.isfinite(baseline.rms_rel)):
        return floor
    return Errors(max(SLACK * baseline.max_rel, floor.max_rel), max(SLACK * baseline.rms_rel, floor.rms_rel))


def check(name: str, got: Tensor, truth: Tensor, baseline: Tensor, dtype: torch.dtype, unit: float = 0.0) -> None:
    """Raise AssertionError where `got` is over its budget.

    Args:
        name: what the message calls the result.
        got: the result under test, any dtype.
        truth: the same maths in float64 on the same rounded inputs.
        baseline: the same maths in plain PyTorch, `dtype` throughout.
        dtype: float32, float16 or bfloat16, the dtype of the inputs.
        unit: see `errors`.
    """
    check_within(name, got, truth, allowed(errors(baseline, truth, unit), dtype), unit)


def check_within(name: str, got: Tensor, truth: Tensor, limit: Errors, unit: float = 0.0) -> None:
    """`check` with a budget that is known already."""
    error = errors(got, truth, unit)
    if error.within(limit):
        return
    # a NaN is the worst there is
    distance = torch.where(got == truth, 0.0, (got.double() - truth.double()).abs()).nan_to_num(torch.inf, torch.inf)
    at = tuple(int(i) for i in torch.unravel_index(distance.argmax(), distance.shape))
    raise AssertionError(
        f"{name}: {error}, allowed {limit}; worst at {list(at)}: {got[at].item():.6g}, truth {truth[at].item():.6g}"
        f" ({str(got.dtype).removeprefix('torch.')} {tuple(got.shape)})"
    )


def _ratio(error: float, size: float) -> float:
    return error / size if size else (0.0 if error == 0 else torch.inf)
