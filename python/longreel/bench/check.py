"""Errors of a result against the truth, gathered piece by piece so that the whole truth never stands in memory."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# The error budget's floors: (max error over the largest true value, rms error over the rms of the truth).
FLOORS = {
    torch.float64: (1e-12, 1e-13),
    torch.float32: (2e-6, 5e-7),
    torch.float16: (2e-3, 5e-4),
    torch.bfloat16: (1.6e-2, 4e-3),
}
SLACK = 1.5


@dataclass(frozen=True)
class Verdict:
    """`error` is the worst error over its budget: at most 1 where the result holds; `why` says what does not hold, else None."""

    error: float
    why: str | None


@dataclass
class ErrorSum:
    """Max and rms error of one output, relative to the truth's largest value and rms."""

    worst: float = 0.0
    squared: float = 0.0
    largest: float = 0.0
    power: float = 0.0

    def add(self, value: Tensor, truth: Tensor) -> None:
        """A piece of the output beside the same piece of the truth (float64)."""
        if truth.numel() == 0:
            return
        error = value.double() - truth
        # max() drops no NaN: a poisoned element must count
        self.worst = _max(self.worst, error.abs().max().item())
        self.squared += error.square().sum().item()
        self.largest = max(self.largest, truth.abs().max().item())
        self.power += truth.square().sum().item()

    @property
    def max_rel(self) -> float:
        return _over(self.worst, self.largest)

    @property
    def rms_rel(self) -> float:
        return _over(self.squared**0.5, self.power**0.5)


def judge(errors: dict[str, ErrorSum], yardsticks: dict[str, ErrorSum], dtype: torch.dtype) -> Verdict:
    """Every output's errors against max(1.5 x the error of plain PyTorch in the same dtype, floor)."""
    floor_max, floor_rms = FLOORS[dtype]
    worst, why = 0.0, None
    for name, error in errors.items():
        yardstick = yardsticks[name]
        for kind, value, limit in (
            ("max", error.max_rel, max(SLACK * yardstick.max_rel, floor_max)),
            ("rms", error.rms_rel, max(SLACK * yardstick.rms_rel, floor_rms)),
        ):
            share = value / limit if math.isfinite(value) else math.inf
            if share > max(worst, 1.0):
                why = f"{name} has {kind} error {value:.1e}, allowed {limit:.1e}"
            worst = max(worst, share)
    return Verdict(worst, why)


def _over(error: float, size: float) -> float:
    return error / size if size else (0.0 if error == 0 else math.inf)


def _max(a: float, b: float) -> float:
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)
