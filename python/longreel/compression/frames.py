"""A video's features, read in chunks of frames."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

# Tokens that are read at a time: what stands beside the scores, whatever the length of the video.
TOKENS = 16_384


class FrameFeatures(Protocol):
    """Features [T, N, C] of T frames, read by slices: a tensor, or a file that gives one."""

    @property
    def shape(self) -> torch.Size: ...

    def __getitem__(self, frames: slice, /) -> Tensor: ...


def spans(frames: FrameFeatures) -> Iterator[tuple[int, int]]:
    """FrameFeatures a to b, of at most `TOKENS` tokens or one frame."""
    total, tokens, _ = frames.shape
    step = max(1, TOKENS // tokens)
    for a in range(0, total, step):
        yield a, min(a + step, total)


def chunks(frames: FrameFeatures) -> Iterator[Tensor]:
    """[f, N, C] of every span, in at least float32."""
    for a, b in spans(frames):
        yield wide(frames[a:b])


def wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
