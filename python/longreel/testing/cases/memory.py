"""Rows beside a memory: what the cases of Video-XL's ops are made of."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from longreel.layout import VideoLayout, global_index
from longreel.testing.cases.case import Case, Inputs, normal

Layout = Callable[[int], VideoLayout]


def chunks(frames: int) -> VideoLayout:
    """A group of chunks, the last partial, their VST grouped behind their visual rows."""
    return VideoLayout.vst(visual=32 * frames - 5, chunk=32, ratio=4).grouped()


def chunk(frames: int) -> VideoLayout:
    """One chunk whose ratio does not divide it."""
    return VideoLayout.vst(ratio=[(20 * frames + 3, 7)]).grouped()


def prefixed(frames: int) -> VideoLayout:
    """Prefix, chunks of several ratios, and text."""
    return VideoLayout.vst(ratio=[(16, 2), (12 * frames, 4), (24, 8)], prefix=5, text=9).grouped()


def one_key_head(inputs: Inputs) -> Inputs:
    """The first key head, in the memory too, and the query heads that share it; of samples that are alike the first."""
    group = inputs["q"].shape[2] // inputs["k"].shape[2]
    rows = {name: inputs[name][:, :, :count] for name, count in (("q", group), ("k", 1), ("v", 1))}
    made = inputs | rows | {name: inputs[name][:, :1] for name in ("mem_k", "mem_v")}
    alike = len(set(inputs["mem_len"].tolist())) == 1 and not {"mem_start", "k_before"} & inputs.keys()
    return {name: value[:1] if alike and isinstance(value, Tensor) else value for name, value in made.items()}


def ints(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def heads_of(
    generator: Generator, batch: int, rows: int, heads: tuple[int, int], width: int, sharp: float = 1.0
) -> Inputs:
    """q, k and v. Scores reach about 4 * `sharp`."""
    return {
        "q": sharp * normal(generator, batch, rows, heads[0], width),
        "k": normal(generator, batch, rows, heads[1], width),
        "v": normal(generator, batch, rows, heads[1], width),
    }


def angles(generator: Generator, *shape: int) -> Inputs:
    turned = 3 * normal(generator, *shape)
    return {"cos": turned.cos(), "sin": turned.sin()}


def memory_case(
    name: str,
    layout: Layout,
    *,
    entries: tuple[int, ...] = (70, 70),
    start: tuple[int, ...] | None = None,
    before: tuple[int, ...] | None = None,
    room: int = 9,
    heads: tuple[int, int] = (4, 2),
    width: int = 16,
    sharp: float = 1.0,
    frames: int = 3,
    fast: bool = False,
    **options: Any,
) -> Case:
    """vst_attention with so many entries in the memory of each sample; room: slots behind all that is visible, which hold NaN.
    start, before: mem_start, k_before."""

    def make(generator: Generator, frames: int) -> Inputs:
        made, batch = layout(frames), len(entries)
        used = max(entries, default=0) + global_index(made).shape[1]
        inputs = heads_of(generator, batch, made.queries, heads, width, sharp)
        if before is not None:
            for key in ("k", "v"):
                inputs[key] = normal(generator, batch, max(before) + made.queries + 3, heads[1], width)
        for key in ("mem_k", "mem_v"):
            inputs[key] = normal(generator, batch, heads[1], used + room, width)
            inputs[key][:, :, used:] = torch.nan
        inputs |= {"mem_len": ints(*entries), "layout": made}
        if start is not None:
            inputs["mem_start"] = ints(*start)
        if before is not None:
            inputs["k_before"] = ints(*before)
        return inputs | options

    return Case(name, make, frames, fast)
