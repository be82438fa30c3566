"""Corners of context_attention."""

from typing import Any

import torch

from longreel.testing.cases.case import BadCase, Case
from longreel.testing.cases.frames import TOWER, frames_case

WHOLE = "takes patches whose rows are whole 16 bytes"
REFUSED = {"cluster": dict.fromkeys(("odd", "one-of-each", "more-rows-than-patches"), WHOLE)}


def cases() -> list[Case]:
    weights: dict[str, Any] = {"return_weights": True}
    return [
        frames_case("shared", fast=True, **weights),
        frames_case("shared-without-weights"),
        frames_case("per-frame", lead=(-1,), **weights),
        frames_case("prompts", lead=(2, 1), frames=13, **weights),
        frames_case("prompts-per-frame-masked", lead=(2, -1), masked=True, fast=True, **weights),
        frames_case("two-prompt-dims", lead=(2, 2, 1), rows=3, **weights),
        frames_case("sets-over-one-frame", lead=(4,), frames=1, **weights),
        frames_case("no-valid-row", masked=True, **weights),
        frames_case("prompt-without-valid-row", lead=(3, 1), masked=True, **weights),
        frames_case("one-of-each", rows=1, tokens=1, width=1, frames=1, **weights),
        frames_case("one-patch", tokens=1, **weights),
        frames_case("odd", rows=7, tokens=37, width=17, frames=5, **weights),
        frames_case("more-rows-than-patches", rows=33, tokens=3, width=130, frames=2, **weights),
        frames_case("vision-tower", rows=32, tokens=257, width=96, frames=2, **weights),
        frames_case("wide", rows=9, tokens=50, width=1408, frames=2, **weights),
        frames_case("sharp", sharp=5.0, rows=16, tokens=49, width=64, frames=6, **weights),
        frames_case("sharpest", sharp=50.0, rows=16, tokens=49, width=64, frames=6, **weights),
        frames_case("scale-one", sharp=0.5, scale=1.0, **weights),
        frames_case("scale-zero", scale=0.0, **weights),
        frames_case("scale-negative", scale=-0.3, **weights),
        frames_case("no-frames", frames=0, **weights),
        frames_case("no-frames-per-frame", lead=(2, -1), frames=0, **weights),
        frames_case("no-patches", tokens=0, **weights),
        frames_case("no-rows", rows=0, **weights),
        frames_case("no-prompts", lead=(0, 1), **weights),
        frames_case("packed", packed=(4, 0, 7, 1), frames=5, fast=True, **weights),
        frames_case("packed-per-frame", lead=(-1,), packed=(4, 0, 7, 1), frames=5, **weights),
        frames_case("packed-prompts-masked", lead=(2, -1), masked=True, packed=(3, 40, 0), frames=6, **weights),
        frames_case("packed-nothing", packed=(0,), **weights),
        frames_case("packed-no-frames", packed=(1,), frames=0, **weights),
    ]


def bad_cases() -> list[BadCase]:
    q, x = torch.zeros(5, 8), torch.zeros(3, 10, 8)
    cu_seqlens = torch.tensor([0, 4, 10])
    return [
        BadCase("dtypes-differ", {"query": q.half(), "patches": x}, TypeError, "float16.*float32"),
        BadCase(
            "integers", {"query": q.int(), "patches": x.int()}, TypeError, "query is torch.int32; allowed: float32"
        ),
        BadCase("query-1d", {"query": q[0], "patches": x}, ValueError, r"\[\*q, M, C\], given \(8,\)"),
        BadCase("patches-2d", {"query": q, "patches": x[0]}, ValueError, r"\[F, N, C\].*given \(10, 8\)"),
        BadCase("widths-differ", {"query": q[:, :7], "patches": x}, ValueError, "width 7 .* width 8"),
        BadCase("no-width", {"query": q[:, :0], "patches": x[..., :0]}, ValueError, "at least 1"),
        BadCase("sets", {"query": q.expand(2, 5, 8), "patches": x}, ValueError, "last entry is 2, allowed are 1 and 3"),
        BadCase(
            "float-mask", {"query": q, "patches": x, "query_mask": torch.ones(5)}, TypeError, "float32; it must be bool"
        ),
        BadCase(
            "mask-shape", {"query": q, "patches": x, "query_mask": torch.ones(4) > 0}, ValueError, r"\(4,\).*\(5,\)"
        ),
        BadCase(
            "packed-3d", {"query": q, "patches": x, "cu_seqlens": cu_seqlens}, ValueError, r"\[total, C\].*\(3, 10, 8\)"
        ),
        BadCase(
            "cu_seqlens-float",
            {"query": q, "patches": x[0], "cu_seqlens": cu_seqlens.float()},
            ValueError,
            r"int32 or int64 \[F \+ 1\], given torch.float32",
        ),
        BadCase("cu_seqlens-empty", {"query": q, "patches": x[0], "cu_seqlens": cu_seqlens[:0]}, ValueError, r"\(0,\)"),
        BadCase(
            "cu_seqlens-beyond",
            {"query": q, "patches": x[0], "cu_seqlens": cu_seqlens + 1},
            ValueError,
            r"rise from 0 to 10.*\[1, 5, 11\]",
        ),
        BadCase(
            "cu_seqlens-falls",
            {"query": q, "patches": x[0], "cu_seqlens": torch.tensor([0, 8, 4, 10])},
            ValueError,
            "rise from 0 to 10",
        ),
    ]


def gpu_cases() -> list[Case]:
    return [
        frames_case("tower", **TOWER, frames=40, return_weights=True),
        frames_case(
            "sharp-text", rows=77, tokens=577, width=1024, frames=9, sharp=5.0, masked=True, return_weights=True
        ),
        frames_case(
            "packed-prompts",
            lead=(2, -1),
            rows=9,
            packed=(1, 300),
            width=1152,
            frames=8,
            masked=True,
            return_weights=True,
        ),
        frames_case("per-frame", lead=(-1,), **TOWER, frames=9, return_weights=True),
        frames_case("prompts", lead=(5, 1), **TOWER, frames=9, return_weights=True),
        frames_case("packed", rows=32, width=1408, packed=(257, 0, 1, 577, 100), frames=40, return_weights=True),
        frames_case(
            "packed-per-frame",
            lead=(2, -1),
            rows=7,
            width=1025,
            packed=(65, 0, 300),
            masked=True,
            frames=9,
            return_weights=True,
        ),
    ]


def interpreted() -> list[tuple[torch.dtype, Case]]:
    half = ("shared", "prompts-per-frame-masked", "odd", "sharpest", "packed-per-frame")
    every = [(torch.float32, case) for case in cases()]
    return every + [(torch.float16, case) for case in cases() if case.name in half]
