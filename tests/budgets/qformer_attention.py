"""Launches of qformer_attention: 32 queries of 12 heads over an hour's keys with frame positions, and over frames of a tower."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from cards import EVERY, LARGE
from longreel.triton_kernels.common.aot import Launch, recorded
from longreel.triton_kernels.common.card import Card
from longreel.triton_kernels.common.launch import TRITON_NAMES
from longreel.triton_kernels.qformer_attention import qformer_attention, qformer_attention_backward
from torch import Tensor

FORWARD = ("scores", "sums", "frame_sums", "dots", "product")
BACKWARD = ("backward_scores", "backward_keys")
QUERIES, HEADS, WIDTH = 32, 12, 768
# batch, keys, channels, frames with positions, whether keys are masked
HOUR, TOWER = (1, 115_200, 768, 3600, False), (64, 257, 1408, 0, True)


def call(backward: bool, batch: int, keys: int, channels: int, frames: int, masked: bool, dtype: torch.dtype) -> None:
    def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    query, weights, bias = empty(1, QUERIES, WIDTH), empty(WIDTH, channels), empty(WIDTH)
    mask = empty(batch, keys, dtype=torch.bool) if masked else None
    table = empty(frames, channels) if frames else None
    given = (
        query,
        empty(batch, keys, channels),
        weights,
        weights,
        bias,
        mask,
        table,
        keys // max(frames, 1),
        HEADS,
        0.125,
    )
    out, lse = (empty(batch, *shape, dtype=torch.float32) for shape in ((QUERIES, WIDTH), (HEADS, QUERIES)))
    if backward:
        qformer_attention_backward(out, *given, out, lse, 1, 1, 1, 1, 1, int(frames > 0))
    else:
        qformer_attention(*given)


def of(
    kernels: tuple[str, ...], where: str, card: Card, backward: bool, dtype: torch.dtype, *sizes: int
) -> Iterator[Launch]:
    """The first launch of each kernel: on the keys, where others are on frame positions, or of other weights."""
    with recorded(card) as launches:
        call(backward, *sizes, dtype)
    for kernel in kernels:
        first = next(launch for launch in launches if launch.name == f"qformer_{kernel}_kernel")
        yield replace(first, name=f"qformer_attention_{kernel}/{TRITON_NAMES[dtype]}/{where}")


def launches() -> Iterator[Launch]:
    bf16 = torch.bfloat16
    yield from of(("scores", "sums"), "large card", LARGE, False, bf16, *HOUR)
    yield from of(BACKWARD, "large card", LARGE, True, bf16, *HOUR)
    yield from of(FORWARD, "every card", EVERY, False, bf16, *HOUR)
    yield from of(BACKWARD, "every card", EVERY, True, bf16, *HOUR)
    yield from of((*BACKWARD, "sums"), "every card", EVERY, True, torch.float16, *TOWER)
    yield from of(("scores", "sums", "product"), "every card", EVERY, False, torch.float32, *TOWER)
    yield from of(BACKWARD, "every card", EVERY, True, torch.float32, *TOWER)
