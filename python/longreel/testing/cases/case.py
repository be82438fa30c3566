"""A corner of an op as data: what the contract test runs every backend on. Each reference/<op>.py lists its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """`make(generator, frames)` gives the public function's arguments by name, floating tensors in float64 on the CPU.

    `fast` cases also run in the tests that cost more than a call (compilation, opcheck, strides). `frames` is the length
    that changes between calls of a compiled graph.
    """

    name: str
    make: Callable[[Generator, int], Inputs]
    frames: int = 3
    fast: bool = False

    def inputs(self, frames: int | None = None, seed: int = 0) -> Inputs:
        """Arguments of one call; the same seed gives the same numbers."""
        return self.make(torch.Generator().manual_seed(seed), self.frames if frames is None else frames)


def shorter(case: Case, frames: int = 1, changed: Callable[[Inputs], Inputs] = lambda inputs: inputs) -> Case:
    """The case with so many frames, its arguments `changed`: as much of it as an interpreter has time for."""
    return Case(case.name, lambda generator, frames: changed(case.make(generator, frames)), frames)


@dataclass(frozen=True)
class BadCase:
    """Arguments that must raise `error` with a text that matches `says` (a regular expression)."""

    name: str
    inputs: Inputs
    error: type[Exception]
    says: str


def normal(generator: Generator, *shape: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)
