"""Corners of token_density."""

import torch
from torch import Generator

from longreel.testing.cases.case import BadCase, Case, Inputs, normal


def _case(name: str, tokens: int, width: int = 24, frames: int = 3, fast: bool = False, shared: float = 1.0) -> Case:
    def make(generator: Generator, frames: int) -> Inputs:
        # Tokens about a direction that they share, as features have.
        return {"x": normal(generator, frames * tokens, width) + shared * normal(generator, width)}

    return Case(name, make, frames, fast)


def cases() -> list[Case]:
    return [
        _case("segment", 16, fast=True),
        _case("odd-width", 7, 131, fast=True),
        _case("wide", 40, 1408, 2),
        _case("blocks", 90, 40, 7),
        _case("large-blocks", 130, 40, 7),
        _case("many-slices", 11, 900),
        _case("opposite", 9, 3, shared=0.0),
        _case("one", 1, 5, 1),
        _case("two", 1, 1, 2),
        _case("four", 2, 8, 2),
        _case("none", 5, 8, 0),
    ]


def bad_cases() -> list[BadCase]:
    x = torch.zeros(12, 8)
    return [
        BadCase("integers", {"x": x.long()}, TypeError, "x is torch.int64; allowed: float32"),
        BadCase("packed", {"x": x[None]}, ValueError, r"x must be \[n, C\] with C from 1 on, given \(1, 12, 8\)"),
        BadCase("no-width", {"x": x[:, :0]}, ValueError, r"given \(12, 0\)"),
    ]


def gpu_cases() -> list[Case]:
    return [_case("tower", 256, 3584, 4), _case("narrow", 729, 96, 1)]


def interpreted() -> list[tuple[torch.dtype, Case]]:
    return [(torch.float32, case) for case in cases() if case.name not in ("wide", "blocks", "large-blocks")]
