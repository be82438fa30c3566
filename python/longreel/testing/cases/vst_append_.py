"""Corners of vst_append_."""

from typing import Any

import torch
from torch import Generator

from longreel.testing.cases.case import BadCase, Case, Inputs, normal
from longreel.testing.cases.memory import angles, ints


def _case(
    name: str,
    lengths: tuple[int, ...],
    rows: int = 5,
    room: int = 3,
    heads: int = 2,
    width: int = 16,
    fast: bool = False,
) -> Case:
    """room: slots behind those that are written."""

    def make(generator: Generator, frames: int) -> Inputs:
        batch, added = len(lengths), rows * frames
        capacity = max(lengths, default=0) + added + room
        memory = {key: normal(generator, batch, heads, capacity, width) for key in ("mem_k", "mem_v")}
        new = {key: normal(generator, batch, added, heads, width) for key in ("k", "v")}
        return memory | {"mem_len": ints(*lengths)} | new | angles(generator, capacity + 4, width // 2)

    return Case(name, make, fast=fast)


def cases() -> list[Case]:
    return [
        _case("behind-others", (40, 40), fast=True),
        _case("other-lengths", (0, 17, 3), fast=True),
        _case("first", (0,), room=0),
        _case("one-row", (8, 9), rows=1, heads=5),
        *(_case(f"head-size-{width}", (7,), width=width) for width in (2, 34, 96, 128, 256)),
        _case("no-batch", ()),
        _case("no-rows", (4, 4), rows=0),
    ]


def interpreted() -> list[tuple[torch.dtype, Case]]:
    short = ((dtype, case) for dtype in (torch.bfloat16, torch.float16) for case in cases() if case.fast)
    return [*((torch.float32, case) for case in cases()), *short]


def gpu_cases() -> list[Case]:
    return [_case("chunk", (18000,), rows=18, room=100, heads=4, width=128)]


def bad_cases() -> list[BadCase]:
    memory, k, table = torch.zeros(2, 2, 16, 8), torch.zeros(2, 5, 2, 8), torch.zeros(16, 4)
    good = {"mem_k": memory, "mem_v": memory.clone(), "mem_len": ints(4, 4), "k": k, "v": k, "cos": table, "sin": table}

    def bad(name: str, error: type[Exception], says: str, **changed: Any) -> BadCase:
        return BadCase(name, good | changed, error, says)

    return [
        bad("integers", TypeError, "k is torch.int64; allowed: float32", k=k.long()),
        bad("memory-dtype", TypeError, "mem_k is torch.bfloat16 and k is torch.float32", mem_k=memory.bfloat16()),
        bad("batch", ValueError, r"mem_k must be \[2, 2, capacity, 8\]", mem_k=memory[:1]),
        bad("lengths", ValueError, r"mem_len is int32 \[2\]; given float32 \[2\]", mem_len=torch.zeros(2)),
        bad("odd-heads", ValueError, "the head size D is 7", k=k[..., 1:], v=k[..., 1:]),
        bad("table", ValueError, r"float32 \[..., 4\] of one shape; cos is torch.float32 \[16, 3\]", cos=table[:, 1:]),
        bad("table-of-samples", ValueError, r"cos and sin are \[positions, 4\]", cos=table[None], sin=table[None]),
        bad("room", ValueError, "5 rows do not fit: the memory has room for 4", mem_k=memory[:, :, :4], mem_v=memory[:, :, :4]),
        bad("positions", ValueError, "cos and sin have 3 positions", cos=table[:3], sin=table[:3]),
    ]  # fmt: skip
