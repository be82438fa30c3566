"""A video's features, read in chunks of frames."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

# Numbers that are read at a time, whatever the length of the video: what a core's cache holds; for devices see `spans`.
NUMBERS = 2**19
# So many times that are read for `token_scores`, which keeps a frame in a cache itself and shares frames among threads.
SCORED = 8


class FrameFeatures(Protocol):
    """Features [T, N, C] of T frames, read by slices: a tensor, or a file that gives one."""

    @property
    def shape(self) -> torch.Size: ...

    def __getitem__(self, frames: slice, /) -> Tensor: ...


def spans(frames: FrameFeatures, times: int = 1) -> Iterator[tuple[int, int]]:
    """Frames a to b, of `times` `NUMBERS` numbers at most, on a device 64 times `NUMBERS`, or one frame."""
    total, tokens, width = frames.shape
    room = times * NUMBERS if getattr(frames, "device", torch.device("cpu")).type == "cpu" else 64 * NUMBERS
    step = max(1, room // (tokens * width))
    for a in range(0, total, step):
        yield a, min(a + step, total)


def chunks(frames: FrameFeatures) -> Iterator[Tensor]:
    """[f, N, C] of every span, in at least float32."""
    for a, b in spans(frames):
        yield wide(frames[a:b])


def wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
