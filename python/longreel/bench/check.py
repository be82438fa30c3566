"""Errors of a result against the truth, gathered piece by piece so that the whole truth never stands in memory."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from longreel.testing.budget import Errors, allowed


@dataclass(frozen=True)
class Verdict:
    """`error` is the worst error over its budget, at most 1 where the result holds; `worst` names that error."""

    error: float
    worst: str | None

    @property
    def why(self) -> str | None:
        """What does not hold, None where the result does."""
        return None if self.error <= 1 else self.worst


@dataclass
class ErrorSum:
    """Max and rms error of one output and the size of its truth, over the pieces added so far."""

    worst: float = 0.0
    squared: float = 0.0
    largest: float = 0.0
    power: float = 0.0

    def add(self, value: Tensor, truth: Tensor) -> None:
        """A piece of the output beside the same piece of the truth (float64). What is not finite counts as infinite.

        Raises:
            ValueError: the shapes differ.
        """
        if value.shape != truth.shape:
            raise ValueError(f"shape {tuple(value.shape)}, the truth has {tuple(truth.shape)}")
        if truth.numel() == 0:
            return
        error = value.double() - truth
        worst = error.abs().max().item()
        self.worst = max(self.worst, worst) if math.isfinite(worst) else math.inf
        self.squared = self.squared + error.square().sum().item() if math.isfinite(worst) else math.inf
        self.largest = max(self.largest, truth.abs().max().item())
        self.power += truth.square().sum().item()

    @property
    def errors(self) -> Errors:
        """Relative to the largest value and to the rms of the truth."""
        return Errors(_ratio(self.worst, self.largest), _ratio(self.squared**0.5, self.power**0.5))


def judge(sums: dict[str, ErrorSum], yardsticks: dict[str, ErrorSum], dtype: torch.dtype) -> Verdict:
    """Every output against the error budget, whose yardstick is plain PyTorch computing in `dtype`."""
    return worst_of((name, found.errors, allowed(yardsticks[name].errors, dtype)) for name, found in sums.items())


def worst_of(results: Iterable[tuple[str, Errors, Errors]]) -> Verdict:
    """Of (name, error, what is allowed). An error over its budget that is no number is infinite."""
    verdict = Verdict(0.0, None)
    for name, error, limit in results:
        for kind, value, most in (("max", error.max_rel, limit.max_rel), ("rms", error.rms_rel, limit.rms_rel)):
            over = math.inf if math.isnan(value / most) else value / most
            if verdict.worst is None or over > verdict.error:
                verdict = Verdict(over, f"{name} has {kind} error {value:.1e}, allowed {most:.1e}")
    return verdict


def _ratio(error: float, size: float) -> float:
    return error / size if size else (0.0 if error == 0 else math.inf)
