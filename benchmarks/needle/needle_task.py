"""Pairs of a key and a value planted in a video of noise, keys asked for at the end; made from a seed."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Ids: what stands before the video, then keys, values and noise.
BEGIN, KEYS, VALUES, NOISE = 0, 64, 64, 63
KEY, VALUE, FILLER = 1, 1 + KEYS, 1 + KEYS + VALUES
VOCABULARY = FILLER + NOISE
# By chance an answer is right once in so many.
CHANCE = 1 / VALUES
# Tokens of which two next to each other may be a pair, from an even place on: no ratio of 2, 4 or 8 parts them.
CELL = 8


@dataclass(frozen=True)
class Needles:
    """chunks: of the video, of `chunk` visual tokens. pairs: planted, each in its own equal part of the video, in order."""

    chunks: int
    chunk: int = 144
    pairs: int = 8

    def __post_init__(self) -> None:
        if self.chunk % CELL or not 0 < self.pairs <= min(KEYS, self.tokens // CELL):
            raise ValueError(
                f"chunks of {self.chunk} tokens, {self.pairs} pairs: allowed are multiples of {CELL} and, of"
                f" {self.tokens} tokens, 1 to {min(KEYS, self.tokens // CELL)} pairs"
            )

    @property
    def tokens(self) -> int:
        return self.chunks * self.chunk


@dataclass(frozen=True)
class Batch:
    """video: ids [B, tokens]. keys, values: ids [B, pairs], by depth; the keys of a video differ. at: where each key stands
    [B, pairs]."""

    video: Tensor
    keys: Tensor
    values: Tensor
    at: Tensor


def batch(task: Needles, size: int, seed: int) -> Batch:
    """`size` videos; the same seed gives the same."""
    random = torch.Generator().manual_seed(seed)
    shape = size, task.pairs
    video = torch.randint(FILLER, VOCABULARY, (size, task.tokens), generator=random)
    keys = KEY + torch.rand(size, KEYS, generator=random).argsort(1)[:, : task.pairs]
    values = torch.randint(VALUE, VALUE + VALUES, shape, generator=random)
    # A cell within each part of the video, and a place within the cell.
    part = torch.arange(task.pairs + 1) * (task.tokens // CELL) // task.pairs
    cell = part[:-1] + (torch.rand(shape, generator=random) * part.diff()).long()
    at = cell * CELL + 2 * torch.randint(0, CELL // 2, shape, generator=random)
    return Batch(video.scatter(1, at, keys).scatter(1, at + 1, values), keys, values, at)
