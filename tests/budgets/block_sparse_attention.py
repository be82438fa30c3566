"""Launches of block_sparse_attention: a video of VoCo frames, global keys gathered, with the tiles of large cards beside
those that fit every card.

What is compiled costs seconds in every test run: heads of one tile (128) and of two (96), of the others what is tightest.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from cards import EVERY, LARGE
from longreel.triton_kernels.block_sparse_attention import (
    block_sparse_attention,
    block_sparse_attention_backward,
    block_sparse_attention_gluon,
)
from longreel.triton_kernels.block_sparse_attention.config import tile_config
from longreel.triton_kernels.common.aot import Launch, launches_of
from longreel.triton_kernels.common.card import Card
from longreel.triton_kernels.common.launch import TRITON_NAMES
from torch import Tensor

from longreel.layout import VideoLayout
from longreel.layout.planned import TILES

FORWARD, DECODE, DQ, DKV = "forward", "decode", "backward_dq", "backward_dkv"
CHOSEN = (
    (torch.bfloat16, 128, (FORWARD, DECODE, DQ, DKV)),
    (torch.float32, 128, (FORWARD, DQ, DKV)),
    (torch.bfloat16, 96, (FORWARD, DECODE, DQ, DKV)),
    (torch.bfloat16, 64, (FORWARD,)),
    (torch.bfloat16, 80, (FORWARD,)),
    (torch.bfloat16, 256, (DKV,)),
)
HEADS, KV_HEADS = 28, 4
Tile = tuple[int, int]
# Plans of short frames have the half tile.
WHOLE, HALF = TILES["cuda"], (TILES["cuda"][0] // 2, TILES["cuda"][1])
LAYOUT = VideoLayout.voco(frames=9, vision=576, voco=3, text=61, prefix=7, mode="causal")


def arguments(layout: VideoLayout, dtype: torch.dtype, head: int, tile: Tile) -> tuple[Tensor | float | None, ...]:
    plan = layout.to("cpu", tile=tile)
    sizes = ((layout.queries, HEADS), (layout.keys, KV_HEADS), (layout.keys, KV_HEADS))
    q, k, v = (torch.empty(1, rows, heads, head, dtype=dtype, device="meta") for rows, heads in sizes)
    tensors = (
        plan.global_index, plan.start, plan.bounds, plan.tiles, plan.order, plan.kv_blocks, plan.query_ranges, plan.kv_order,
    )  # fmt: skip
    return q, k, v, None, None, *(t.to("meta") for t in tensors), *plan.tile, head**-0.5


def call(name: str, dtype: torch.dtype, head: int, tile: Tile = WHOLE) -> None:
    if name in (FORWARD, DECODE):
        layout = LAYOUT if name == FORWARD else LAYOUT.rows(LAYOUT.queries - 16, LAYOUT.queries)
        block_sparse_attention(*arguments(layout, dtype, head, tile))
    else:
        given = arguments(LAYOUT, dtype, head, tile)
        out = torch.empty_like(given[0])
        lse = torch.empty(1, HEADS, LAYOUT.queries, device="meta")
        block_sparse_attention_backward(out, None, *given, out, lse, 1, 1, 1)


def launches() -> Iterator[Launch]:
    for dtype, head, names in CHOSEN:
        kind = TRITON_NAMES[dtype]
        for name in names:
            every, large = (tile_config(name, head, dtype.itemsize, 128, 64, card) for card in (EVERY, LARGE))
            for card, label in ((EVERY, "every card"), *(((LARGE, "large card"),) if large != every else ())):
                yield from compiled(card, name, f"{kind}/{head}/{label}", dtype, head, WHOLE)
    for name in (FORWARD, DQ):
        yield from compiled(LARGE, name, "bf16/128/half rows/large card", torch.bfloat16, 128, HALF)
    for name, also in ((DECODE, "decode_merge"), (DQ, "delta"), (DKV, "merge")):
        labels = {f"block_sparse_{also}_kernel": f"block_sparse_{also}/bf16/128"}
        yield from launches_of(EVERY, labels, call, name, torch.bfloat16, 128)
    for dtype, head, tile, label in (
        (torch.bfloat16, 128, WHOLE, "bf16/128/"),
        (torch.bfloat16, 64, WHOLE, "bf16/64/"),
        (torch.bfloat16, 128, HALF, "bf16/128/half rows/"),
    ):
        labels = {"block_sparse_hopper_kernel": f"block_sparse_forward on Hopper/{label}large card"}
        yield from launches_of(LARGE, labels, hopper_call, dtype, head, tile)


def compiled(card: Card, name: str, label: str, dtype: torch.dtype, head: int, tile: Tile) -> Iterator[Launch]:
    """For the architectures whose cards may take this tile."""
    config = tile_config(name, head, dtype.itemsize, *tile, card)
    labels = {f"block_sparse_{name}_kernel": f"block_sparse_{name}/{label}"}
    for launch in launches_of(card, labels, call, name, dtype, head, tile):
        yield replace(launch, archs=(90, 100)) if config.wgmma else launch


def hopper_call(dtype: torch.dtype, head: int, tile: Tile) -> None:
    block_sparse_attention_gluon(*arguments(LAYOUT, dtype, head, tile))
