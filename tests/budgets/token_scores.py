"""Launches of token_scores: frames of 256 tokens of 3584 channels, 20 queries, in every dtype."""

from collections.abc import Iterator

import torch
from cards import EVERY
from longreel.triton_kernels.common.aot import Launch, launches_of
from longreel.triton_kernels.common.launch import TRITON_NAMES
from longreel.triton_kernels.token_scores import DTYPES, token_scores


def launches() -> Iterator[Launch]:
    for dtype in DTYPES:
        x, query, before = (torch.empty(*size, 3584, dtype=dtype, device="meta") for size in ((64, 256), (20,), (256,)))
        kind = TRITON_NAMES[dtype]
        names = {f"{part}_kernel": f"token_scores/{part}/{kind}" for part in ("products", "means", "unlike")}
        yield from launches_of(EVERY, names, token_scores, x, query, before, 0.02)
