"""Launches of vst_attention: a chunk and a row of text behind a memory, heads of 128 as Qwen2-7B's."""

from collections.abc import Iterator

import torch
from cards import LARGE
from longreel.triton_kernels.common.aot import Launch, launches_of
from longreel.triton_kernels.common.launch import TRITON_NAMES
from longreel.triton_kernels.vst_attention import vst_attention

from longreel.layout import VideoLayout
from longreel.layout.planned import TILES

HEADS, KV_HEADS, WIDTH, CAPACITY = 28, 4, 128, 20000
CHUNK = VideoLayout.vst(ratio=[(1440, 8)]).grouped()


def call(layout: VideoLayout, dtype: torch.dtype, before: int | None) -> None:
    plan, meta = layout.to("cpu", tile=TILES["cuda"]), {"dtype": dtype, "device": "meta"}
    q = torch.empty(1, layout.queries, HEADS, WIDTH, **meta)
    k, v = (torch.empty(1, layout.queries if before is None else before, KV_HEADS, WIDTH, **meta) for _ in range(2))
    mem_k, mem_v = (torch.empty(1, KV_HEADS, CAPACITY, WIDTH, **meta) for _ in range(2))
    length = torch.empty(1, dtype=torch.int32, device="meta")
    tables = (t.to("meta") for t in (plan.bounds, plan.tiles, plan.order))
    vst_attention(
        q, k, v, mem_k, mem_v, length, None, None if before is None else length, *tables, *plan.tile, WIDTH**-0.5
    )


def launches() -> Iterator[Launch]:
    # The other tiles are those of block_sparse_attention's launches.
    chosen = (
        ("vst_attention", CHUNK, None, torch.bfloat16, LARGE, "large card"),
        ("vst_attention_decode", VideoLayout.causal(1), 2048, torch.bfloat16, LARGE, "large card"),
    )
    for name, layout, before, dtype, card, which in chosen:
        kernel = f"block_sparse_{'forward' if before is None else 'decode'}_kernel"
        labels = {kernel: f"{name}/{TRITON_NAMES[dtype]}/{WIDTH}/{which}"}
        yield from launches_of(card, labels, call, layout, dtype, before)
