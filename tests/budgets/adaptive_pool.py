"""Launches of adaptive_pool: 16 x 16 tokens of 1408 channels to 4 x 4 cells, in every dtype; bfloat16 in the forms of grids."""

from collections.abc import Iterator

import torch
from cards import EVERY
from longreel.triton_kernels.adaptive_pool import DTYPES, adaptive_pool, adaptive_pool_backward
from longreel.triton_kernels.common.aot import Launch, launches_of
from longreel.triton_kernels.common.launch import TRITON_NAMES

FRAMES, CHANNELS = 64, 1408
GEOMETRY = (0, 16, 16, 16, 4, 4)
# LLaVA-OneVision's frames; frames averaged over time; packed pictures of an even and an odd side.
FORMS = {
    "bilinear": (729, ((0, 27, 27, 27, 14, 14), 0, 1, ())),
    "time": (256, (GEOMETRY, 16, 0, ())),
    "packed": (None, ((0, 1, 0, 1, 0, 1), 0, 1, (2, 26, 34, 2, 13, 17, 1, 27, 27, 1, 14, 14))),
}


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
    for form, (tokens, (window, *rest)) in FORMS.items():
        kind = torch.bfloat16
        if tokens is None:
            patches, content = (torch.empty(n, CHANNELS, dtype=kind, device="meta") for n in (2497, 638))
        else:
            patches = torch.empty(FRAMES, tokens, CHANNELS, dtype=kind, device="meta")
            content = torch.empty(rest[0] or FRAMES, window[4] * window[5], CHANNELS, dtype=kind, device="meta")
        yield from launches_of(
            EVERY, {"pool_grids_kernel": f"adaptive_pool/{form}/bf16"}, adaptive_pool, patches, *window, *rest
        )
        yield from launches_of(
            EVERY,
            {"pool_grids_backward_kernel": f"adaptive_pool_backward/{form}/bf16"},
            adaptive_pool_backward,
            content,
            2497 if tokens is None else tokens,
            *window,
            *rest,
            FRAMES,
        )
