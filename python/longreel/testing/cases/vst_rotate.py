"""Corners of vst_rotate."""

from typing import Any

import torch
from torch import Generator

from longreel.layout import VideoLayout
from longreel.testing.cases.case import BadCase, Case, Inputs, shorter
from longreel.testing.cases.memory import Layout, angles, chunk, chunks, heads_of, prefixed


def _case(
    name: str, layout: Layout, batch: int = 2, heads: tuple[int, int] = (4, 2), width: int = 16, samples: int = 0,
    frames: int = 3, fast: bool = False,
) -> Case:  # fmt: skip
    """samples: of the tables, 0 where they have no sample dimension."""

    def make(generator: Generator, frames: int) -> Inputs:
        made = layout(frames)
        inputs = heads_of(generator, batch, made.queries, heads, width)
        return inputs | angles(generator, *[samples] * bool(samples), made.queries, width // 2) | {"layout": made}

    return Case(name, make, frames, fast)


def two(frames: int) -> VideoLayout:
    """Two samples of one length, with VST at other places."""
    each = [VideoLayout.vst(ratio=[(24 * frames, ratio)], text=12 * frames - 24 * frames // ratio) for ratio in (4, 8)]
    return VideoLayout.batch(each).grouped()


def cases() -> list[Case]:
    return [
        _case("chunk", chunk, fast=True),
        _case("chunks", chunks, samples=2, fast=True),
        _case("prefix-chunks-text", prefixed, samples=1),
        _case("position-order", lambda f: VideoLayout.vst(ratio=[(20 * f, 5)])),
        _case("two-layouts", two, samples=2),
        _case("text", lambda f: VideoLayout.causal(3 * f), heads=(3, 3)),
        _case("one-row", lambda f: VideoLayout.causal(1)),
        *(_case(f"head-size-{width}", chunk, width=width, heads=(2, 1)) for width in (2, 34, 96, 128, 256)),
        _case("no-batch", chunk, batch=0),
        _case("no-rows", lambda f: VideoLayout.causal(0)),
    ]


def interpreted() -> list[tuple[torch.dtype, Case]]:
    short = ((dtype, shorter(case)) for dtype in (torch.bfloat16, torch.float16) for case in cases() if case.fast)
    return [*((torch.float32, shorter(case)) for case in cases()), *short]


def gpu_cases() -> list[Case]:
    return [
        _case(
            "chunk",
            lambda f: VideoLayout.vst(ratio=[(144 * f, 8)]).grouped(),
            batch=1,
            heads=(28, 4),
            width=128,
            frames=10,
        )
    ]


def bad_cases() -> list[BadCase]:
    layout = VideoLayout.vst(ratio=[(8, 4)]).grouped()
    q, k, table = torch.zeros(2, 10, 4, 8), torch.zeros(2, 10, 2, 8), torch.zeros(10, 4)
    good = {"q": q, "k": k, "v": k, "cos": table, "sin": table, "layout": layout}

    padded = VideoLayout.batch([VideoLayout.causal(10), VideoLayout.causal(8)])
    three = {"q": q[:, :3], "k": k[:, :3], "v": k[:, :3]}

    def bad(name: str, error: type[Exception], says: str, **changed: Any) -> BadCase:
        return BadCase(name, good | changed, error, says)

    return [
        bad("integers", TypeError, "k is torch.int64; allowed: float32", k=k.long()),
        bad("dtypes", TypeError, "v is torch.bfloat16 and k is torch.float32", v=k.bfloat16()),
        bad("rows", ValueError, r"q must be \[B, R, H, D\] with B, R and D of k", q=q[:, :9]),
        bad("odd-heads", ValueError, "the head size D is 7; allowed are even numbers", q=q[..., 1:], k=k[..., 1:], v=k[..., 1:]),
        bad("table-width", ValueError, r"float32 \[..., 4\] of one shape; cos is torch.float32 \[10, 3\]", cos=table[:, 1:]),
        bad("table-shapes", ValueError, r"of one shape; sin is torch.float32 \[9, 4\]", sin=table[1:]),
        bad("table-rows", ValueError, r"cos and sin are \[10, 4\]", cos=table[1:], sin=table[1:]),
        bad("layout-rows", ValueError, "the layout has 9 query rows", layout=VideoLayout.causal(9)),
        bad("windowed", ValueError, "one whole Video-XL or text document", layout=VideoLayout.causal(10).rows(7, 10), **three),
        bad("padding", ValueError, "without padding or window", layout=padded),
        bad("samples", ValueError, "the layout has 3 samples", layout=VideoLayout.batch([VideoLayout.causal(10)] * 3)),
    ]  # fmt: skip
