"""Launches of context_attention: every dtype, packed frames, eight prompts of masked queries; the backward over frames, which
knows no pooling, and over packed patches."""

from collections.abc import Iterator

import torch
from cards import LARGE
from frames import CHANNELS, FRAMES, KINDS, floats, label, patches, query
from longreel.triton_kernels.common.aot import Launch, launches_of
from longreel.triton_kernels.common.card import Card
from longreel.triton_kernels.context_attention import context_attention, context_attention_backward
from torch import Tensor

BF16 = torch.bfloat16


def borders() -> Tensor:
    return torch.empty(FRAMES + 1, dtype=torch.int64, device="meta")


def launches() -> Iterator[Launch]:
    def forward(name: str, *inputs: Tensor | None) -> list[Launch]:
        return launches_of(
            LARGE, {"frames_forward_kernel": f"context_attention/{name}"}, context_attention, *inputs, 0.1
        )

    # compress_frames has its other dtypes and cards.
    yield from forward("bf16/32 queries/large card", query(BF16, 32), patches(BF16), None, None)
    yield from forward(
        "bf16/32 queries packed/large card", query(BF16, 32), patches(BF16, packed=True), None, borders()
    )
    mask = torch.empty(8, 1, 32, dtype=torch.bool, device="meta")
    yield from forward("bf16/32 queries 8 prompts/large card", query(BF16, 32, prompts=8), patches(BF16), mask, None)

    def backward(
        labels: dict[str, str], dtype: torch.dtype, queries: int, card: Card, packed: bool = False
    ) -> list[Launch]:
        grad = torch.empty(1, FRAMES, CHANNELS, dtype=dtype, device="meta")
        given = (query(dtype, queries), patches(dtype, packed), None, borders() if packed else None)
        lse = floats(1, FRAMES, queries)
        return launches_of(card, labels, context_attention_backward, grad, None, *given, lse, 0.1, 1, 1)

    name = "context_attention_backward"
    for dtype, queries, card in KINDS:
        labels = {"frames_backward_kernel": f"{name}/{label(dtype, queries, card)}"}
        yield from backward(labels, dtype, queries, card)
    labels = {
        "frames_backward_kernel": f"{name}/bf16/32 queries packed/large card",
        "frames_backward_patches_kernel": f"{name}_patches/bf16 packed",
        "sum_groups_kernel": "context_attention_sum_groups/bf16",
    }
    yield from backward(labels, BF16, 32, LARGE, packed=True)
