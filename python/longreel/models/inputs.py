"""What goes into every system: frames and sound through its encoders, a file of their features, or a saved memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from longreel.data import (
    FeatureStream,
    FeatureWriter,
    FrameChunk,
    FrameStream,
    MediaError,
    is_feature_file,
)
from longreel.data import frames as open_frames
from longreel.models.cost import TOWER_FRAMES
from longreel.models.memory import RANDOM, SavedMemory, check_made_by, describe, open_memory
from longreel.models.sizes import Preset, computed_in
from longreel.models.system import InputFacts, System

AUDIO = "audio"
# Frames that decoding is ahead of a tower on a CPU.
_AHEAD = 64
Progress = Callable[[int], None]
Cut = Callable[[Tensor], Tensor]
"""A picture uint8 [h, w, 3] -> frames [T, image, image, 3]."""


class Stream(Protocol):
    """Chunks of frames, as `FrameStream` has them."""

    expected: int | None
    still: bool

    def __iter__(self) -> Iterator[FrameChunk]: ...
    def __next__(self) -> FrameChunk: ...
    def stop_after(self, count: int) -> None: ...
    def close(self) -> None: ...


class Pieces(Iterator[FrameChunk]):
    """One picture in its own size, as the frames that it is cut into; `chunk` of them at a time. All have its time."""

    def __init__(self, stream: FrameStream, cut: Cut, chunk: int) -> None:
        self.expected: int | None = None
        self.still = True
        self._stream, self._cut, self._chunk = stream, cut, chunk
        self._left: list[Tensor] = []

    def __next__(self) -> FrameChunk:
        if not self._left:
            self._left = list(torch.split(self._cut(next(self._stream).pixels[0]), self._chunk))
        pixels = self._left.pop(0)
        return FrameChunk(pixels, torch.zeros(len(pixels), dtype=torch.float64))

    def stop_after(self, count: int) -> None:
        """One picture is decoded in any case."""

    def close(self) -> None:
        self._stream.close()


@dataclass(frozen=True)
class Input:
    """One of: frames with their sound where the system hears it, features of both, a saved memory. Closed by `with`."""

    facts: InputFacts
    frames: Stream | None = None
    sound: Any = None
    """An `AudioClips`."""
    features: FeatureStream | None = None
    saved: SavedMemory | None = None
    chunk: int | None = None
    """Frames at a time, where that was given."""

    @property
    def expected(self) -> int | None:
        """Frames, by what the header says."""
        return self.facts.expected

    def only(self, first: int, stop: int | None) -> None:
        """Give frames `first` to before `stop` alone, None: to the end. Before anything was read.

        Raises:
            ValueError: it has sound, or no frames.
        """
        if self.saved is not None:
            raise ValueError(f"{self.saved.path}: a saved memory is asked by one process alone")
        if self.sound is not None or (self.features is not None and self.features.others):
            raise ValueError("a video with sound is heard by one process alone")
        if isinstance(self.frames, FrameStream):
            self.frames.only(first, stop)
        elif self.features is not None:
            self.features.only(first, stop)

    def __enter__(self) -> "Input":
        return self

    def __exit__(self, *exception: object) -> None:
        with ExitStack() as stack:
            for stream in (self.frames, self.sound, self.features):
                if stream is not None:
                    stack.callback(stream.close)


def open_input(
    paths: Sequence[Path],
    system: System,
    preset: Preset,
    *,
    weights: str = RANDOM,
    prefix: int = 0,
    options: Any = None,
    frames: str | None = None,
    chunk: int | None = None,
    pin: bool = False,
    cut: Cut | None = None,
) -> Input:
    """A video, images, a feature file or a saved memory, for a system.

    Args:
        prefix: prefix tokens (CLS) that the tower is to give; a feature file has its own. options: of the system.
        frames, chunk: which frames of a video, and how many at a time; None where they were not given.
        pin: features into page-locked memory, for a GPU, whose tower takes a chunk at once.
        cut: into what a picture that comes alone is cut.

    Raises:
        MediaError: the file cannot be used, or was made by another model. ValueError: an option that the file has no use for.
    """
    size = preset
    saved = open_memory(paths[0], system.name, size, weights) if len(paths) == 1 else None
    if saved is not None:
        for option, value in (("frames", frames), ("chunk", chunk)):
            if value is not None:
                raise ValueError(f"--{option} {value}: {saved.path} holds a saved memory, its frames were read before")
        return Input(InputFacts(0, False, saved.frames), saved=saved)
    if len(paths) == 1 and is_feature_file(paths[0]):
        features = FeatureStream(paths[0], chunk=chunk or size.chunk, pin=pin)
        found = check_features(features, system.name, size, weights)
        if frames is not None:
            raise ValueError(f"--frames {frames}: {paths[0]} holds features, its frames were chosen before")
        if found > prefix:
            raise ValueError(
                f"{paths[0]}: this file keeps the CLS token; `longreel extract` is where it can be dropped"
            )
        still = features.about.get("kind") == "images"
        return Input(
            InputFacts(found, still, features.expected, features.counts.get(AUDIO)), features=features, chunk=chunk
        )
    count = chunk or size.chunk
    piece, ahead = pieces(count, gpu=pin)
    stream: Stream = open_frames(
        list(paths),
        frames or system.frames,
        size=size.tower.image,
        fit=system.fit,
        chunk=count,
        piece=piece,
        ahead=ahead,
    )
    if cut is not None and stream.still and stream.expected == 1:
        stream.close()
        stream = Pieces(open_frames(list(paths), chunk=1), cut, count)
    try:
        sound = None if stream.still else system.sound(paths[0], preset, options)
    except BaseException:
        stream.close()
        raise
    clips = getattr(sound, "expected", None)
    return Input(InputFacts(prefix, stream.still, stream.expected, clips), frames=stream, sound=sound, chunk=chunk)


def pieces(chunk: int, *, gpu: bool) -> tuple[int, int]:
    """Pictures of a chunk that are decoded at a time, and how many such pieces may wait. On a CPU the tower takes few at a time:
    more need not be there, and the first are computed with sooner."""
    piece = chunk if gpu else min(chunk, TOWER_FRAMES)
    return piece, 2 if gpu else max(2, min(_AHEAD, chunk) // piece)


def check_features(stream: FeatureStream, system: str, preset: Preset, weights: str = RANDOM) -> int:
    """How many prefix tokens (CLS) the file's frames have, 1 or 0; MediaError unless it was made by this preset's tower."""
    check_made_by(stream.path, dict(stream.about), describe(system, preset, weights), preset)
    tower = preset.tower
    _, tokens, width = stream.shape
    if tokens not in (tower.patches, tower.tokens) or width != tower.width:
        raise MediaError(
            f"{stream.path}: features {list(stream.shape)}; preset {preset.name} takes"
            f" [frames, {tower.tokens} (or {tower.patches} without CLS), {tower.width}]"
        )
    return tokens - tower.patches


def feature_writer(
    path: str | Path,
    system: str,
    preset: Preset,
    about: dict[str, str],
    *,
    num_prefix_tokens: int,
    weights: str = RANDOM,
    device: torch.device | str = "cpu",
    audio: bool = False,
) -> FeatureWriter:
    """A feature file for this preset's tower; `about` adds to what it says of itself. audio: it may hold audio too."""
    tower, dtype = preset.tower, computed_in(preset, torch.device(device))
    return FeatureWriter(
        path, tower.patches + num_prefix_tokens, tower.width, dtype, {**describe(system, preset, weights), **about},
        others=(AUDIO,) if audio else (),
    )  # fmt: skip


def expected_frames(source: Input, frames: int | None) -> int | None:
    """How many will come by what the header says, `frames` at most."""
    return min((count for count in (source.expected, frames) if count is not None), default=None)
