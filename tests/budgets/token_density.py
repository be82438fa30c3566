"""Launches of token_density: a segment of 1,024 tokens of 3584 channels, in every dtype."""

from collections.abc import Iterator

import torch
from cards import EVERY
from longreel.triton_kernels.common.aot import Launch, launches_of
from longreel.triton_kernels.common.launch import TRITON_NAMES
from longreel.triton_kernels.token_density import DTYPES, token_density


def launches() -> Iterator[Launch]:
    for dtype in DTYPES:
        kind = TRITON_NAMES[dtype]
        names = {f"{part}_kernel": f"token_density/{part}/{kind}" for part in ("products", "density", "denser")}
        yield from launches_of(EVERY, names, token_density, torch.empty(1024, 3584, dtype=dtype, device="meta"))
