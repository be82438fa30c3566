"""Corners of compress_frames."""

from typing import Any

import torch

from longreel.testing.cases.case import BadCase, Case
from longreel.testing.cases.frames import POOL, TOWER, frames_case

REFUSED = {"cluster": dict.fromkeys(("odd", "one-of-each"), "takes patches whose rows are whole 16 bytes")}


def cases() -> list[Case]:
    weights: dict[str, Any] = {"return_weights": True}
    return [
        frames_case("mean", mode="mean", fast=True, **weights),
        frames_case("mean-without-weights", mode="mean"),
        frames_case("adaptive-prefix", tokens=17, output_size=2, num_prefix_tokens=1, fast=True, **weights),
        frames_case("overlapping-cells-per-frame", lead=(-1,), tokens=25, output_size=3, **weights),
        frames_case("finer-than-patches", tokens=9, output_size=4, **weights),
        frames_case("oblong-prompts", lead=(2, 1), tokens=15, output_size=(2, 3), grid=(3, 5), frames=13, **weights),
        frames_case("grid-drops-tail", tokens=102, output_size=3, mode="grid", num_prefix_tokens=2, **weights),
        frames_case("grid-more-cells", tokens=256, output_size=6, mode="grid", rows=4, **weights),
        frames_case("none-prefix", mode="none", num_prefix_tokens=3, **weights),
        frames_case(
            "prompts-per-frame-masked",
            lead=(2, -1),
            masked=True,
            tokens=10,
            output_size=2,
            num_prefix_tokens=1,
            fast=True,
            **weights,
        ),
        frames_case("no-valid-row", masked=True, mode="mean", **weights),
        frames_case("sets-over-one-frame", lead=(4,), frames=1, tokens=9, output_size=2, **weights),
        frames_case("one-of-each", rows=1, tokens=1, width=1, frames=1, output_size=1, **weights),
        frames_case("odd", rows=7, tokens=49, width=17, frames=5, output_size=3, **weights),
        frames_case(
            "vision-tower", rows=32, tokens=257, width=96, frames=2, output_size=4, num_prefix_tokens=1, **weights
        ),
        frames_case("wide", rows=9, tokens=64, width=1408, frames=2, output_size=4, **weights),
        frames_case("sharp", sharp=5.0, rows=16, tokens=49, width=64, frames=6, output_size=2, **weights),
        frames_case("sharpest", sharp=50.0, rows=16, tokens=49, width=64, frames=6, mode="mean", **weights),
        frames_case("scale-one", sharp=0.5, scale=1.0, mode="mean", **weights),
        frames_case("no-frames", frames=0, mode="mean", **weights),
        frames_case("no-rows", rows=0, mode="mean", **weights),
        frames_case("no-prompts", lead=(0, 1), mode="mean", **weights),
        frames_case("no-patches", tokens=0, mode="none", **weights),
        frames_case("only-prefix", tokens=2, mode="none", num_prefix_tokens=2, **weights),
    ]


def bad_cases() -> list[BadCase]:
    q, x = torch.zeros(5, 8), torch.zeros(3, 10, 8)
    return [
        BadCase("dtypes-differ", {"query": q.half(), "patches": x, "mode": "mean"}, TypeError, "float16.*float32"),
        BadCase(
            "patches-2d", {"query": q, "patches": x[0], "mode": "mean"}, ValueError, r"\[F, N, C\], given \(10, 8\)"
        ),
        BadCase("widths-differ", {"query": q[:, :7], "patches": x, "mode": "mean"}, ValueError, "width 7 .* width 8"),
        BadCase("sets", {"query": q.expand(2, 5, 8), "patches": x, "mode": "mean"}, ValueError, "allowed are 1 and 3"),
        BadCase(
            "not-square", {"query": q, "patches": x, "output_size": 2}, ValueError, "10 patches.*not a square grid"
        ),
        BadCase("mode", {"query": q, "patches": x, "mode": "max"}, ValueError, "mode='max' is not one of"),
        BadCase(
            "prefix-too-long",
            {"query": q, "patches": x, "mode": "mean", "num_prefix_tokens": 11},
            ValueError,
            "is outside 0..10",
        ),
        BadCase(
            "mask-shape",
            {"query": q, "patches": x, "mode": "mean", "query_mask": torch.ones(4) > 0},
            ValueError,
            r"\(4,\).*\(5,\)",
        ),
    ]


def gpu_cases() -> list[Case]:
    return [
        frames_case("tower", **TOWER, **POOL, frames=40, return_weights=True),
        frames_case("tower-mean", **TOWER, mode="mean", num_prefix_tokens=1, frames=133, return_weights=True),
        frames_case(
            "sharp-overlapping",
            rows=40,
            tokens=576,
            width=1024,
            frames=9,
            sharp=5.0,
            output_size=5,
            return_weights=True,
        ),
        frames_case("prompts", lead=(3, -1), masked=True, **TOWER, **POOL, frames=6, return_weights=True),
        frames_case(
            "odd", rows=3, tokens=577, width=333, mode="none", num_prefix_tokens=1, frames=7, return_weights=True
        ),
    ]


def interpreted() -> list[tuple[torch.dtype, Case]]:
    half = ("prompts-per-frame-masked", "odd", "sharpest", "finer-than-patches")
    every = [(torch.float32, case) for case in cases()]
    return every + [(torch.float16, case) for case in cases() if case.name in half]
