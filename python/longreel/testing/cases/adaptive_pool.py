"""Corners of adaptive_pool."""

from typing import Any

import torch
from torch import Generator, Tensor

from longreel.testing.cases.case import BadCase, Case, Inputs, normal
from longreel.testing.cases.frames import POOL


def _case(name: str, tokens: int, width: int = 24, frames: int = 3, fast: bool = False, **options: Any) -> Case:
    def make(generator: Generator, frames: int) -> Inputs:
        return {"patches": normal(generator, frames, tokens, width), **options}

    return Case(name, make, frames, fast)


def _packed(name: str, grids: list[tuple[int, int, int]], width: int = 24, **options: Any) -> Case:
    """Pictures of these grids, repeated as needed."""

    def make(generator: Generator, pictures: int) -> Inputs:
        each = [grids[i % len(grids)] for i in range(pictures)]
        given = dict(options)
        if isinstance(given["output_size"], list):
            given["output_size"] = [given["output_size"][i % len(grids)] for i in range(pictures)]
        return {"patches": normal(generator, sum(t * h * w for t, h, w in each), width), "grid_thw": each, **given}

    return Case(name, make, len(grids))


# Those that CUDA C++ does not serve.
GRIDS: dict[str, dict[str, Any]] = {
    "bilinear-halved": {"tokens": 16, "output_size": 2, "mode": "bilinear", "fast": True},
    "bilinear-odd": {"tokens": 49, "output_size": 4, "mode": "bilinear", "width": 131},
    "bilinear-finer": {"tokens": 15, "output_size": (7, 8), "grid": (3, 5), "mode": "bilinear"},
    "bilinear-oblong-prefix": {
        "tokens": 31, "output_size": (2, 7), "grid": (4, 7), "num_prefix_tokens": 3, "mode": "bilinear",
    },
    "bilinear-one-cell": {"tokens": 25, "output_size": 1, "mode": "bilinear", "frames": 9},
    "bilinear-one-patch": {"tokens": 1, "output_size": 3, "mode": "bilinear"},
    "bilinear-onevision": {"tokens": 729, "output_size": 14, "mode": "bilinear", "width": 17, "frames": 1},
    "bilinear-no-frames": {"tokens": 16, "output_size": 3, "mode": "bilinear", "frames": 0},
    "time": {"tokens": 16, "output_size": (2, 2, 2), "frames": 5, "fast": True},
    "time-finer": {"tokens": 10, "output_size": (7, 2, 1), "grid": (3, 3), "num_prefix_tokens": 1},
    "time-one-step": {"tokens": 9, "output_size": (1, 3, 3), "frames": 70},
    "time-bilinear": {"tokens": 12, "output_size": (3, 2, 5), "grid": (3, 4), "frames": 4, "mode": "bilinear"},
}  # fmt: skip
PACKED: dict[str, dict[str, Any]] = {
    "packed": {"grids": [(2, 3, 4), (1, 1, 1), (3, 5, 2)], "output_size": 2},
    "packed-bilinear": {"grids": [(1, 4, 6), (2, 5, 5)], "output_size": (3, 2), "mode": "bilinear", "width": 131},
    "packed-sizes": {
        "grids": [(2, 4, 6), (1, 5, 3)], "output_size": [(2, 3), (1, 3, 2)], "mode": "bilinear",
    },
    "packed-time": {"grids": [(4, 3, 3), (1, 2, 5)], "output_size": (2, 2, 3)},
    "packed-nothing": {"grids": [], "output_size": 2},
}  # fmt: skip
REFUSED = {"cuda": dict.fromkeys((*GRIDS, *PACKED), "averages the frames")}


def cases() -> list[Case]:
    return [
        *(_case(name, **options) for name, options in GRIDS.items()),
        *(_packed(name, **options) for name, options in PACKED.items()),
        _case("halved", 16, output_size=2, fast=True),
        _case("overlapping-cells", 25, output_size=3, fast=True),
        _case("finer-than-patches", 9, output_size=5),
        _case("same-size", 9, output_size=3),
        _case("one-cell", 9, output_size=1, frames=13),
        _case("oblong", 15, output_size=(2, 4), grid=(3, 5)),
        _case("one-row-prefix", 9, output_size=(1, 3), grid=(1, 7), num_prefix_tokens=2),
        _case("vision-tower", 257, output_size=4, num_prefix_tokens=1, width=96, frames=5),
        _case("wide", 36, output_size=2, width=1408, frames=2),
        _case("one-of-each", 1, output_size=1, width=1, frames=1),
        _case("odd-width", 49, output_size=3, width=131),
        _case("grid-drops-tail", 100, output_size=3, mode="grid", fast=True),
        _case("grid-more-cells", 257, output_size=6, mode="grid", num_prefix_tokens=1),
        _case("grid-each-patch", 25, output_size=5, mode="grid"),
        _case("mean-prefix", 38, mode="mean", num_prefix_tokens=3, fast=True),
        _case("mean-of-one", 1, mode="mean"),
        _case("mean-many", 1000, mode="mean", width=40),
        _case("none", 10, mode="none"),
        _case("none-prefix", 10, mode="none", num_prefix_tokens=1),
        _case("none-nothing", 3, mode="none", num_prefix_tokens=3),
        _case("no-patches", 0, mode="none"),
        _case("no-frames", 16, output_size=2, frames=0),
    ]


def bad_cases() -> list[BadCase]:
    x = torch.zeros(3, 12, 8)

    def bad(name: str, says: str, error: type[Exception] = ValueError, patches: Tensor = x, **options: Any) -> BadCase:
        return BadCase(name, {"patches": patches, **options}, error, says)

    return [
        bad("integers", "patches is torch.int64; allowed: float32", TypeError, x.long(), mode="mean"),
        bad("patches-2d", r"\[F, N, C\].*given \(12, 8\)", patches=x[0], mode="mean"),
        bad("no-width", r"C of at least 1, given \(3, 12, 0\)", patches=x[..., :0], mode="mean"),
        bad("not-square", r"12 patches.*not a square grid: pass grid", output_size=2),
        bad("wrong-grid", r"grid=\(3, 3\) has 9 tokens, but there are 12", output_size=2, grid=(3, 3)),
        bad("grid-and-mean", r"grid=\(3, 3\) has 9 tokens, but there are 12", mode="mean", grid=(3, 3)),
        bad("prefix-negative", r"num_prefix_tokens=-1 is outside 0..12", mode="mean", num_prefix_tokens=-1),
        bad("prefix-too-long", r"num_prefix_tokens=13 is outside 0..12", mode="mean", num_prefix_tokens=13),
        bad("nothing-to-pool", "no patches to pool", mode="mean", num_prefix_tokens=12),
        bad("mode", "mode='max' is not one of", mode="max"),
        bad("no-output-size", "mode='adaptive' needs output_size", num_prefix_tokens=3),
        bad("output-size-zero", "output_size=0 must be at least 1", output_size=0, num_prefix_tokens=3),
        bad("grid-one", "an int of at least 2, not 1", output_size=1, mode="grid", num_prefix_tokens=3),
        bad("grid-pair", r"an int of at least 2, not \(2, 2\)", output_size=(2, 2), mode="grid", num_prefix_tokens=3),
        bad("grid-oblong", "square grid of patches, not 3 x 4", output_size=2, mode="grid", grid=(3, 4)),
        bad("bilinear-no-size", "mode='bilinear' needs output_size", mode="bilinear", num_prefix_tokens=3),
        bad("time-and-mean", r"'mean' has no time axis, output_size=\(2, 1, 1\)", mode="mean", output_size=(2, 1, 1)),
        bad("no-time", r"\(0, 2, 2\) must be at least 1", output_size=(0, 2, 2), grid=(3, 4)),
        bad("time-of-nothing", r"no frames to pool to output_size=\(2, 2, 2\)", patches=x[:0], output_size=(2, 2, 2)),
        bad("packed-3d", r"\[total, C\] with grid_thw.*given \(3, 12, 8\)", grid_thw=[(3, 3, 4)], output_size=2),
        bad("packed-total", "9 tokens, but there are 12", patches=x[0], grid_thw=[(1, 3, 3)], output_size=2),
        bad("packed-mode", "mode='mean' takes frames", patches=x[0], grid_thw=[(1, 3, 4)], mode="mean"),
        bad(
            "packed-grid",
            "gives every picture its grid",
            patches=x[0],
            grid_thw=[(1, 3, 4)],
            grid=(3, 4),
            output_size=2,
        ),
        bad("packed-pairs", r"a list; allowed: \(frames, height", TypeError, x[0], grid_thw=[(3, 4)], output_size=2),
        bad("packed-empty-grid", r"has \(0, 3, 4\)", patches=x[0], grid_thw=[(0, 3, 4)], output_size=2),
        bad("packed-counts", "2 sizes for 1 pictures", patches=x[0], grid_thw=[(1, 3, 4)], output_size=[(1, 1)] * 2),
        bad("packed-no-size", "needs output_size", patches=x[0], grid_thw=[(1, 3, 4)]),
        bad("packed-size", "at least 1 in every place", patches=x[0], grid_thw=[(1, 3, 4)], output_size=0),
        bad("grid-too-fine", "finer than the 3 x 3 patches", output_size=4, mode="grid", num_prefix_tokens=3),
    ]


def gpu_cases() -> list[Case]:
    return [
        _case("tower", 257, 1408, 40, **POOL),
        _case("overlapping", 576, 1024, 9, output_size=5),
        _case("mean", 257, 1408, 9, mode="mean", num_prefix_tokens=1),
        _case("none", 257, 1408, 9, mode="none", num_prefix_tokens=1),
        _case("bilinear", 729, 1152, 9, output_size=14, mode="bilinear"),
        _case("time", 257, 1408, 9, output_size=(4, 4, 4), num_prefix_tokens=1),
        _packed("packed", [(2, 26, 34), (1, 40, 12)], 1280, output_size=7),
    ]


def interpreted() -> list[tuple[torch.dtype, Case]]:
    return [(torch.float32, case) for case in cases()]
