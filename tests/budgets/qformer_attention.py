"""Launches of qformer_attention: 32 queries of 12 heads over an hour's keys with frame positions, and over frames of a tower."""

from collections.abc import Iterator

import torch
from cards import EVERY, LARGE
from longreel.triton_kernels.common.aot import Launch, launches_of
from longreel.triton_kernels.common.card import Card
from longreel.triton_kernels.common.launch import TRITON_NAMES
from longreel.triton_kernels.qformer_attention import qformer_attention, qformer_attention_backward
from torch import Tensor

FORWARD = ("scores", "dots", "sums", "frame_sums", "product")
BACKWARD = ("backward_scores", "backward_keys")
QUERIES, HEADS, WIDTH = 32, 12, 768


def call(backward: bool, batch: int, keys: int, channels: int, frames: int, masked: bool, dtype: torch.dtype) -> None:
    def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    query, weights, bias = empty(1, QUERIES, WIDTH), empty(WIDTH, channels), empty(WIDTH)
    mask = empty(batch, keys, dtype=torch.bool) if masked else None
    table = empty(frames, channels) if frames else None
    given = (query, empty(batch, keys, channels), weights, weights, bias, mask, table, keys // max(frames, 1), HEADS, 0.125)
    out, lse = (empty(batch, *shape, dtype=torch.float32) for shape in ((QUERIES, WIDTH), (HEADS, QUERIES)))
    if backward:
        qformer_attention_backward(out, *given, out, lse, 1, 1, 1, 1, 1, int(frames > 0))
    else:
        qformer_attention(*given)


def launches() -> Iterator[Launch]:
    def of(kinds: tuple[str, ...], label: str, card: Card, backward: bool, dtype: torch.dtype, *sizes: int) -> list[Launch]:
        labels = {f"qformer_{kind}_kernel": f"qformer_attention_{kind}/{TRITON_NAMES[dtype]}/{label}" for kind in kinds}
        return launches_of(card, labels, call, backward, *sizes, dtype)

    hour, tower = (1, 115_200, WIDTH, 3600, False), (64, 257, 1408, 0, True)
    for card, name in ((EVERY, "every card"), (LARGE, "large card")):
        yield from of(("scores",), name, card, False, torch.bfloat16, *hour)
        yield from of(BACKWARD, name, card, True, torch.bfloat16, *hour)
    for dtype in (torch.float32, torch.float16):
        yield from of(("scores",), "tower", EVERY, False, dtype, *tower)
        yield from of(BACKWARD, "tower", EVERY, True, dtype, *tower)
