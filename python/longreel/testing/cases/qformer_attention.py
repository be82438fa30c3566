"""Corners of qformer_attention."""

from typing import Any

import torch
from torch import Generator

from longreel.testing.cases.case import BadCase, Case, Inputs, normal


def _case(
    name: str,
    *,
    queries: int = 3,
    heads: int = 2,
    depth: int = 8,
    width: int = 24,
    batch: int = 2,
    shared: bool = False,
    per_frame: int = 5,
    frames: int = 3,
    bias: bool = True,
    masked: bool = False,
    table: bool = False,
    sharp: float = 1.0,
    fast: bool = False,
    **options: Any,
) -> Case:
    """S is `frames` times `per_frame` keys. `masked` keeps about half of the keys and none of the last sample's. Scores
    reach about 4 * `sharp`."""

    def make(generator: Generator, frames: int) -> Inputs:
        inner, keys = heads * depth, frames * per_frame
        inputs: Inputs = {
            "query": sharp * normal(generator, 1 if shared else batch, queries, inner),
            "x": normal(generator, batch, keys, width),
            "w_k": normal(generator, inner, width) * width**-0.5,
            "w_v": normal(generator, inner, width) * width**-0.5,
            "num_heads": heads,
            **options,
        }
        if bias:
            inputs["b_v"] = normal(generator, inner)
        if masked:
            mask = torch.rand(batch, keys, generator=generator) < 0.5
            mask[-1:] = batch == 1 and mask[-1:]
            inputs["key_mask"] = mask
        if table:
            inputs["frame_table"] = normal(generator, frames, width)
        return inputs

    return Case(name, make, frames, fast)


def cases() -> list[Case]:
    return [
        _case("plain"),
        _case("frames-masked-shared", shared=True, masked=True, table=True, batch=3, fast=True),
        _case("no-bias", bias=False),
        _case("one-sample-masked", batch=1, masked=True),
        _case("table-of-one", table=True, frames=1),
        _case("frame-size", table=True, frame_size=5),
        _case("one-of-each", queries=1, heads=1, depth=1, width=1, batch=1, per_frame=1, frames=1),
        _case("odd", queries=7, heads=3, depth=5, width=37, per_frame=43),
        _case("64-queries", queries=64, heads=2, depth=64, width=96, per_frame=23, batch=1),
        _case("heads-in-turn", queries=48, heads=3, depth=32, width=70, per_frame=11),
        _case("head-of-80", queries=9, heads=2, depth=80, width=33, shared=True),
        _case("several-blocks", queries=5, heads=3, depth=16, width=40, batch=1, per_frame=800, table=True),
        _case("split", queries=2, heads=1, depth=8, width=16, batch=1, per_frame=3001, masked=True),
        _case("split-shared", queries=2, heads=2, depth=8, width=16, batch=2, shared=True, per_frame=1500, table=True),
        _case("sharp", sharp=5.0, queries=8, depth=32, width=64, per_frame=60),
        _case("sharpest", sharp=50.0, queries=8, depth=32, width=64, per_frame=60),
        _case("scale-one", scale=1.0),
        _case("scale-zero", scale=0.0),
        _case("scale-negative", scale=-0.3),
        _case("no-samples", batch=0),
        _case("no-keys", frames=0),
        _case("no-queries", queries=0),
    ]


def gpu_cases() -> list[Case]:
    tower: dict[str, Any] = {"queries": 32, "heads": 12, "depth": 64}
    return [
        _case("temporal", **tower, width=768, batch=1, per_frame=32, frames=300, table=True),
        _case("frames", **tower, width=1408, batch=9, shared=True, per_frame=257, frames=1),
        _case(
            "sharp-masked", **tower, width=1408, batch=3, per_frame=300, frames=4, masked=True, table=True, sharp=3.0
        ),
        _case("64-queries", queries=64, heads=16, depth=80, width=1024, batch=2, per_frame=577, frames=2, bias=False),
        _case("one-query", queries=1, heads=1, depth=32, width=96, batch=1, per_frame=100_003, frames=1),
    ]


def interpreted() -> list[tuple[torch.dtype, Case]]:
    """Keys in several blocks and parts, where the others have one block."""
    long = (
        _case("parts-masked", queries=2, heads=1, depth=8, width=16, batch=1, per_frame=129, masked=True, table=True),
        _case("parts-shared", queries=5, heads=3, depth=16, width=40, shared=True, per_frame=129, table=True),
    )
    few = (
        "plain",
        "frames-masked-shared",
        "one-sample-masked",
        "one-of-each",
        "odd",
        "head-of-80",
        "sharpest",
        "scale-zero",
    )
    single = (*few, "scale-negative", "no-samples", "no-keys", "no-queries")
    half = ("frames-masked-shared", "sharpest", "scale-zero")
    every = cases()
    return [
        *((torch.float32, case) for case in (*(c for c in every if c.name in single), long[0])),
        *((torch.float16, case) for case in (*(c for c in every if c.name in half), long[1])),
        *((torch.bfloat16, case) for case in (*(c for c in every if c.name in half), long[0])),
    ]


def bad_cases() -> list[BadCase]:
    good: Inputs = {
        "query": torch.zeros(2, 3, 8),
        "x": torch.zeros(2, 6, 5),
        "w_k": torch.zeros(8, 5),
        "w_v": torch.zeros(8, 5),
        "num_heads": 2,
    }

    def bad(name: str, error: type[Exception], says: str, **changed: Any) -> BadCase:
        return BadCase(name, {**good, **changed}, error, says)

    table = torch.zeros(3, 5)
    return [
        bad("dtypes-differ", TypeError, "w_k is torch.float16 and x is torch.float32", w_k=good["w_k"].half()),
        bad(
            "query-2d",
            ValueError,
            r"query \[B, Nq, H\*D\] must have 3 dimensions, given \(3, 8\)",
            query=good["query"][0],
        ),
        bad("x-2d", ValueError, r"x \[B, S, C\] must have 3 dimensions", x=good["x"][0]),
        bad("samples", ValueError, "3 samples; allowed are 1 and 2", query=torch.zeros(3, 3, 8)),
        bad("heads", ValueError, r"width 8 .* 3 heads", num_heads=3),
        bad("heads-none", ValueError, "num_heads is 0; allowed: at least 1", num_heads=0),
        bad("heads-fraction", TypeError, "num_heads is 2.0; allowed: a whole number", num_heads=2.0),
        bad("w_v", ValueError, r"w_v must be \[8, 5\], given \(5, 8\)", w_v=torch.zeros(5, 8)),
        bad("b_v", ValueError, r"b_v must be \[8\], given \(5,\)", b_v=torch.zeros(5)),
        bad("mask-float", TypeError, "key_mask is torch.float32; it must be bool", key_mask=torch.ones(2, 6)),
        bad("mask-shape", ValueError, r"key_mask must be \[2, 6\]", key_mask=torch.ones(2, 5) > 0),
        bad("table-width", ValueError, r"frame_table must be \[T, 5\]", frame_table=torch.zeros(3, 4)),
        bad("table-uneven", ValueError, "4 frames, which do not divide the 6 keys", frame_table=torch.zeros(4, 5)),
        bad("frame-size", ValueError, "3 frames of 3 keys .* x has 6 keys", frame_table=table, frame_size=3),
        bad("size-alone", ValueError, "frame_size is 2 and there is no frame_table", frame_size=2),
    ]
