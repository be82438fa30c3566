"""Launches of vst_append_: a chunk's VST rows, a view of its rows, behind a memory."""

from collections.abc import Iterator

import torch
from cards import EVERY
from longreel.triton_kernels.common.aot import Launch, launches_of
from longreel.triton_kernels.vst_append_ import vst_append_

ROWS, VST, KV_HEADS, WIDTH, CAPACITY = 1620, 180, 4, 128, 20000


def call() -> None:
    meta = {"dtype": torch.bfloat16, "device": "meta"}
    memory = (torch.empty(1, KV_HEADS, CAPACITY, WIDTH, **meta) for _ in range(2))
    k, v = (torch.empty(1, ROWS, KV_HEADS, WIDTH, **meta)[:, ROWS - VST :] for _ in range(2))
    cos = torch.empty(CAPACITY, WIDTH // 2, device="meta")
    vst_append_(*memory, torch.empty(1, dtype=torch.int32, device="meta"), k, v, cos, cos)


def launches() -> Iterator[Launch]:
    yield from launches_of(EVERY, {"vst_append_kernel": f"vst_append/bf16/{WIDTH}"}, call)
