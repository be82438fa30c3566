"""Launches of compress_frames: one prompt of shared queries, 4 x 4 cells; the patches' gradient in every dtype."""

from collections.abc import Iterator

import torch
from cards import EVERY
from frames import CHANNELS, FRAMES, KINDS, TOKENS, floats, label, patches, query
from longreel.triton_kernels.common.aot import Launch, launches_of
from longreel.triton_kernels.common.launch import TRITON_NAMES
from longreel.triton_kernels.compress_frames import DTYPES, compress_frames, compress_frames_backward

GEOMETRY = (0, 16, 16, 16, 4, 4)


def launches() -> Iterator[Launch]:
    for dtype, queries, card in KINDS:
        labels = {"frames_forward_kernel": f"compress_frames/{label(dtype, queries, card)}"}
        yield from launches_of(
            card, labels, compress_frames, query(dtype, queries), patches(dtype), None, 0.1, *GEOMETRY
        )
    for dtype in DTYPES:
        labels = {"frames_backward_patches_kernel": f"compress_frames_backward_patches/{TRITON_NAMES[dtype]}"}
        grads = (torch.empty(*shape, CHANNELS, dtype=dtype, device="meta") for shape in ((1, FRAMES), (FRAMES, 16)))
        given = (query(dtype, 32), patches(dtype), None, floats(1, FRAMES, 32), 0.1)
        yield from launches_of(
            EVERY, labels, compress_frames_backward, *grads, floats(1, FRAMES, TOKENS), *given, *GEOMETRY, 1, 1
        )
