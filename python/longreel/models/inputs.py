"""What goes into every system: frames and sound through its encoders, a file of their features, or a saved memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from longreel.data import (
    FeatureChunk,
    FeatureStream,
    FeatureWriter,
    FrameChunk,
    FrameStream,
    MediaError,
    is_feature_file,
)
from longreel.data import frames as open_frames
from longreel.measure.memory import PeakMeter, return_free_memory
from longreel.models.memory import RANDOM, SavedMemory, check_made_by, describe, open_memory
from longreel.models.record import OURS, RunRecord
from longreel.models.sizes import Preset, computed_in
from longreel.models.system import Chunk, InputFacts, Model, System

AUDIO = "audio"
# After so many chunks free heap pages go back to the system: what is held for good stands between large blocks that come and go.
_RETURNED = 4
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
        pin: features into page-locked memory. cut: into what a picture that comes alone is cut.

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
    stream: Stream = open_frames(
        list(paths), frames or system.frames, size=size.tower.image, fit=system.fit, chunk=chunk or size.chunk
    )
    if cut is not None and stream.still and stream.expected == 1:
        stream.close()
        stream = Pieces(open_frames(list(paths), chunk=1), cut, chunk or size.chunk)
    try:
        sound = None if stream.still else system.sound(paths[0], preset, options)
    except BaseException:
        stream.close()
        raise
    clips = getattr(sound, "expected", None)
    return Input(InputFacts(prefix, stream.still, stream.expected, clips), frames=stream, sound=sound, chunk=chunk)


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


def chunks(
    model: Model,
    source: Input,
    record: RunRecord,
    meter: PeakMeter,
    *,
    paths: Sequence[str] = (OURS,),
    frames: int | None = None,
    writer: FeatureWriter | None = None,
    progress: Progress = lambda done: None,
    none: bool = False,
) -> Iterator[Chunk]:
    """What the encoders make of the input, chunk by chunk; what the caller does with one counts for its peak of memory.

    Args:
        record: takes the seconds of decoding (or reading), the encoders and writing, the frames, and the peaks of `meter`.
        paths: whose peaks decoding and the encoders belong to.
        frames: stop after so many. writer: takes the features. progress: told the frames done.
        none: there may be no frames.

    Raises:
        MediaError: no frames, or as the stream.
    """
    if frames is not None and source.frames is not None:
        # Frames behind the last wanted one would be decoded beside the work that is timed.
        source.frames.stop_after(frames)
    while frames is None or record.frames < frames:
        with meter(*paths):
            most = None if frames is None else frames - record.frames
            read = _read(model, source, record, most) if source.frames is None else _encode(model, source, record, most)
            if read is None:
                break
            chunk, times, heard = read
            if writer is not None:
                with record.clock("write"):
                    others = {} if chunk.audio is None else {AUDIO: (chunk.audio.cpu(), heard)}
                    writer.add(chunk.frames.cpu(), times, others)
        yield chunk
        record.frames += chunk.frames.shape[0]
        record.patches += chunk.frames.shape[0] * chunk.frames.shape[1]
        record.memory.append((record.frames, meter.take()))
        if len(record.memory) % _RETURNED == 0:
            return_free_memory()
        progress(record.frames)
    if not (record.frames or none):
        raise MediaError("the input holds no frames")


_Read = tuple[Chunk, Tensor, Tensor]


def _read(model: Model, source: Input, record: RunRecord, most: int | None) -> _Read | None:
    """At most `most` frames of a feature file, their times, and those of the audio up to them."""
    assert source.features is not None
    with record.clock("read"):
        taken: FeatureChunk | None = next(source.features, None)
        if taken is None:
            return None
        times = taken.times[:most]
        frames = taken.features[:most].to(model.device, model.dtype, non_blocking=True)
        audio, heard = taken.others.get(AUDIO, (None, torch.empty(0)))
        if audio is not None:
            heard = heard[heard <= times[-1]] if len(times) == most else heard
            audio = audio[: len(heard)].to(model.device, model.dtype) if len(heard) else None
    return Chunk(frames, audio), times, heard


def _encode(model: Any, source: Input, record: RunRecord, most: int | None) -> _Read | None:
    """At most `most` frames of a video or of images, through the tower; and the sound up to them."""
    assert source.frames is not None
    with record.clock("decode"):
        taken = next(source.frames, None)
        # Behind the last frame comes the rest of the sound, with no frame of its own.
        times = torch.empty(0, dtype=torch.float64) if taken is None else taken.times[:most]
        clips = None if source.sound is None else source.sound.until(times[-1].item() if len(times) else math.inf)
    if taken is None:
        if clips is None or not len(clips.times):
            return None
        image = model.preset.tower.image
        frames = model.encode(torch.empty(0, image, image, 3, dtype=torch.uint8))
    else:
        with record.clock("tower"):
            frames = model.encode(taken.pixels[:most])
    if clips is None or not len(clips.times):
        return Chunk(frames, None), times, torch.empty(0)
    with record.clock("audio"):
        audio = model.encode_audio(clips.samples)
    return Chunk(frames, audio), times, clips.times


def expected_frames(source: Input, frames: int | None) -> int | None:
    """How many will come by what the header says, `frames` at most."""
    return min((count for count in (source.expected, frames) if count is not None), default=None)
