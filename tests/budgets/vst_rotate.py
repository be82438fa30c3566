"""Launches of vst_rotate: the rows of a chunk, heads of 128; of 256 back."""

from collections.abc import Iterator

import torch
from cards import EVERY
from longreel.triton_kernels.common.aot import Launch, launches_of
from longreel.triton_kernels.common.launch import TRITON_NAMES
from longreel.triton_kernels.vst_rotate import vst_rotate, vst_rotate_backward

ROWS, HEADS, KV_HEADS = 1620, 28, 4


def call(dtype: torch.dtype, head: int, backward: bool) -> None:
    q, k, v = (torch.empty(1, ROWS, n, head, dtype=dtype, device="meta") for n in (HEADS, KV_HEADS, KV_HEADS))
    cos = torch.empty(1, ROWS, head // 2, device="meta")
    bounds = torch.empty(1, ROWS, 4, dtype=torch.int32, device="meta")
    if backward:
        vst_rotate_backward(q, k, v, cos, cos, bounds, HEADS, KV_HEADS, 1, 1, 1)
    else:
        vst_rotate(q, k, v, cos, cos, bounds)


def launches() -> Iterator[Launch]:
    for dtype, head, backward in ((torch.bfloat16, 128, False), (torch.float32, 256, True)):
        name = f"vst_rotate{'_backward' if backward else ''}/{TRITON_NAMES[dtype]}/{head}"
        yield from launches_of(EVERY, {"vst_rotate_kernel": name}, call, dtype, head, backward)
