"""Corners of foo."""

import torch
from torch import Generator

from longreel.testing.cases.case import BadCase, Case, Inputs, normal


def _case(name: str, width: int, frames: int = 3, fast: bool = False) -> Case:
    def make(generator: Generator, frames: int) -> Inputs:
        return {"x": normal(generator, frames, width)}

    return Case(name, make, frames, fast)


def cases() -> list[Case]:
    return [_case("some", 24, fast=True), _case("odd", 17), _case("nothing", 0), _case("no-frames", 8, frames=0)]


def bad_cases() -> list[BadCase]:
    return [BadCase("1d", {"x": torch.zeros(3)}, ValueError, r"x must be \[F, C\], given \(3,\)")]


def gpu_cases() -> list[Case]:
    return [_case("large", 4096, 1000)]


def interpreted() -> list[tuple[torch.dtype, Case]]:
    return [(torch.float32, case) for case in cases()]
