"""Where in a sound the clips lie that the audio tower hears, and what is taken of them."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from longreel.data.audio import Clips
from longreel.models.video_llama.mel import RATE

SECONDS = 2
Placement = Literal["released", "whole", "all"]
Channels = Literal["left", "mean"]
Mean = Literal["shared", "own"]


def clip_ranges(samples: int, count: int = 8, placement: Placement = "released") -> list[tuple[int, int]]:
    """First sample and the one behind the last of every clip of two seconds at 16 kHz, none behind the sound's end.

    Args:
        samples: of the whole sound.
        count: clips, where `placement` spreads them.
        placement: "released", start i is i / count of the way to the last possible start, which is never reached, rounded as
            there (seconds in float64, the rest exactly); "whole", the last clip ends with the sound; "all", clip after clip.

    Raises:
        ValueError: no such placement, or no clip.
    """
    if placement not in get_args(Placement) or count < 1:
        raise ValueError(
            f"placement {placement!r}, {count} clips; allowed: {', '.join(get_args(Placement))}, 1 or more"
        )
    size = SECONDS * RATE
    if placement == "all":
        return [(first, min(first + size, samples)) for first in range(0, samples, size)]
    room = Fraction(max(samples / RATE - SECONDS, 0.0))
    parts = count if placement == "released" else max(count - 1, 1)
    starts = [room * index / parts for index in range(count)]
    return [(int(start * RATE), min(int((start + SECONDS) * RATE), samples)) for start in starts]


class Blocks(Protocol):
    """Samples [channels, n], block by block; `longreel.data.audio.AudioBlocks`."""

    def __iter__(self) -> Iterator[Tensor]: ...
    def __next__(self) -> Tensor: ...
    def close(self) -> None: ...


class PlacedClips:
    """Clips out of a sound that streams by; what no later clip needs is let go.

    Args:
        ranges: as `clip_ranges` gives them, ascending.
        channels: "left", the first, as released; "mean" of all.
        mean: what is taken away from a clip. "shared": the mean over all channels, from the samples that overlapping clips share,
            so that a later one has lost an earlier one's mean too, as released; "own": its own alone, of what `channels` says.
    """

    def __init__(
        self, blocks: Blocks, ranges: Sequence[tuple[int, int]], *, channels: Channels = "left", mean: Mean = "shared"
    ) -> None:
        self._blocks, self._ranges, self._channels, self._mean = blocks, ranges, channels, mean
        self._size = max((end - first for first, end in ranges), default=0)
        # [channels, n], the sound from sample `_start` on.
        self._held, self._start, self._given = torch.empty(1, 0), 0, 0

    @property
    def expected(self) -> int:
        """Clips in all, by the length that the ranges are of."""
        return len(self._ranges)

    def until(self, time: float) -> Clips:
        """samples [A, n] of the clips not given before that begin at `time` seconds or earlier; one that is a sample shorter than
        the longest, or cut by damage, ends with zeros."""
        parts, first = list[Tensor](), self._given
        while self._given < len(self._ranges) and self._ranges[self._given][0] / RATE <= time:
            clip = torch.zeros(self._size)
            found = self._next(*self._ranges[self._given])
            clip[: len(found)] = found
            parts.append(clip)
            self._given += 1
        times = torch.tensor([start / RATE for start, _ in self._ranges[first : self._given]], dtype=torch.float64)
        return Clips(torch.stack(parts) if parts else torch.empty(0, self._size), times)

    def close(self) -> None:
        self._blocks.close()

    def _next(self, first: int, end: int) -> Tensor:
        """[n] of one clip."""
        self._read(first, end)
        place = self._held[:, first - self._start : end - self._start]
        if not place.numel():
            return torch.empty(0)
        if self._mean == "shared":
            place -= place.mean()
        chosen = place[0] if self._channels == "left" else place.mean(0)
        return chosen.clone() if self._mean == "shared" else chosen - chosen.mean()

    def _read(self, first: int, end: int) -> None:
        """Hold the sound from `first` to `end`, as far as there is any."""
        parts, there = [self._held[:, first - self._start :]], self._start + self._held.shape[1]
        while there < end and (block := next(self._blocks, None)) is not None:
            behind = there + block.shape[1]
            if behind > first:
                parts.append(block[:, max(first - there, 0) :])
            there = behind
        self._start = first
        self._held = torch.cat([part.expand(parts[-1].shape[0], -1) for part in parts], 1)


def clips_of(
    waveform: Tensor,
    *,
    count: int = 8,
    placement: Placement = "released",
    channels: Channels = "left",
    mean: Mean = "shared",
) -> Tensor:
    """[A, n] of a sound [channels, samples] at 16 kHz that is there whole; the same as from a file. `waveform` is not changed."""
    ranges = clip_ranges(waveform.shape[1], count, placement)
    return PlacedClips(_Whole([waveform.clone()]), ranges, channels=channels, mean=mean).until(float("inf")).samples


class _Whole:
    def __init__(self, blocks: Iterable[Tensor]) -> None:
        self._blocks = iter(blocks)

    def __iter__(self) -> Iterator[Tensor]:
        return self._blocks

    def __next__(self) -> Tensor:
        return next(self._blocks)

    def close(self) -> None:
        """Nothing is open."""
