"""Launches of adaptive_pool: 16 x 16 tokens of 1408 channels to 4 x 4 cells, in every dtype."""

from collections.abc import Iterator

import torch
from cards import EVERY
from longreel.triton_kernels.adaptive_pool import DTYPES, adaptive_pool, adaptive_pool_backward
from longreel.triton_kernels.common.aot import Launch, launches_of
from longreel.triton_kernels.common.launch import TRITON_NAMES

FRAMES, CHANNELS = 64, 1408
GEOMETRY = (0, 16, 16, 16, 4, 4)


def launches() -> Iterator[Launch]:
    for dtype in DTYPES:
        kind = TRITON_NAMES[dtype]
        patches, content = (torch.empty(FRAMES, n, CHANNELS, dtype=dtype, device="meta") for n in (256, 16))
        yield from launches_of(
            EVERY, {"adaptive_pool_kernel": f"adaptive_pool/{kind}"}, adaptive_pool, patches, *GEOMETRY
        )
        yield from launches_of(
            EVERY,
            {"adaptive_pool_backward_kernel": f"adaptive_pool_backward/{kind}"},
            adaptive_pool_backward,
            content,
            256,
            *GEOMETRY,
        )
