"""Corners of token_scores."""

import torch
from torch import Generator

from longreel.testing.cases.case import BadCase, Case, Inputs, normal


def _case(
    name: str, tokens: int, queries: int, width: int = 24, frames: int = 3, behind: bool = False, fast: bool = False
) -> Case:
    def make(generator: Generator, frames: int) -> Inputs:
        inputs: Inputs = {
            "patches": normal(generator, frames, tokens, width),
            "query": normal(generator, queries, width),
        }
        # Tokens about a direction that they share, as features have.
        inputs["patches"] += 2 * normal(generator, width)
        return inputs | ({"before": normal(generator, tokens, width)} if behind else {})

    return Case(name, make, frames, fast)


def cases() -> list[Case]:
    return [
        _case("video", 16, 5, fast=True),
        _case("behind", 9, 3, behind=True, fast=True),
        _case("odd-width", 7, 2, 131, behind=True),
        _case("wide", 40, 20, 1408, 2),
        _case("one-of-each", 1, 1, 1, 1),
        _case("no-queries", 6, 0, behind=True),
        _case("no-tokens", 0, 3),
        _case("no-frames", 6, 3, frames=0, behind=True),
        _case("many-frames", 5, 2, 20, 40),
    ]


def bad_cases() -> list[BadCase]:
    x, q = torch.zeros(3, 12, 8), torch.zeros(5, 8)

    def bad(name: str, says: str, error: type[Exception] = ValueError, **changed: object) -> BadCase:
        return BadCase(name, {"patches": x, "query": q} | changed, error, says)

    return [
        bad("integers", "patches is torch.int64; allowed: float32", TypeError, patches=x.long()),
        bad("widths", "query has width 7 and patches have width 8", query=q[:, :7]),
        bad("packed", r"patches must be \[F, N, C\] and query \[M, C\], given \(12, 8\)", patches=x[0]),
        bad("query-3d", r"given \(3, 12, 8\) and \(1, 5, 8\)", query=q[None]),
        bad("dtypes", "they must have one dtype", TypeError, query=q.bfloat16()),
        bad("before-shape", r"before must be a frame \[12, 8\], given \[11, 8\]", before=x[0, :11]),
        bad("before-dtype", "before is torch.bfloat16", TypeError, before=x[0].bfloat16()),
        bad("scale", "scale is 'a'", TypeError, scale="a"),
    ]


def gpu_cases() -> list[Case]:
    return [_case("tower", 256, 20, 3584, 9, behind=True), _case("narrow", 729, 3, 96, 40)]


def interpreted() -> list[tuple[torch.dtype, Case]]:
    return [(torch.float32, case) for case in cases() if case.name != "wide"]
