"""Launches of foo: a frame of 1408 channels, in every dtype."""

from collections.abc import Iterator

import torch
from cards import EVERY
from longreel.triton_kernels.common.aot import Launch, launches_of
from longreel.triton_kernels.common.launch import TRITON_NAMES
from longreel.triton_kernels.foo import foo


def launches() -> Iterator[Launch]:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.empty(256, 1408, dtype=dtype, device="meta")
        yield from launches_of(EVERY, {"foo_kernel": f"foo/{TRITON_NAMES[dtype]}"}, foo, x, 2.0)
