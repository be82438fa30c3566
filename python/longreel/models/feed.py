"""What goes into every system: frames through its vision tower, or a file of the tower's features, chunk by chunk."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from longreel.data import FeatureChunk, FeatureStream, FeatureWriter, FrameChunk, FrameStream, MediaError
from longreel.models.record import OURS, PeakMeter, Record
from longreel.models.sizes import Preset, computed_in
from longreel.models.weights import RANDOM

Source = FrameStream | FeatureStream
Progress = Callable[[int], None]


class Sees(Protocol):
    """A model with a vision tower."""

    dtype: torch.dtype

    @property
    def preset(self) -> Preset: ...
    @property
    def device(self) -> torch.device: ...
    def encode(self, pixels: Tensor) -> Tensor: ...


def describe(system: str, preset: Preset, weights: str = RANDOM) -> dict[str, str]:
    """What a feature file says of the tower that made it."""
    return {"system": system, "preset": preset.name, "tower": str(preset.tower), "weights": weights}


def check_features(stream: FeatureStream, system: str, preset: Preset, weights: str = RANDOM) -> int:
    """How many prefix tokens (CLS) the file's frames have, 1 or 0; MediaError unless it was made by this preset's tower."""
    for key, ours in describe(system, preset, weights).items():
        if stream.about.get(key) != ours:
            raise MediaError(f"{stream.path}: made with {key} {stream.about.get(key)!r}, this run has {key} {ours!r}")
    tower = preset.tower
    _, tokens, width = stream.shape
    if tokens not in (tower.patches, tower.tokens) or width != tower.width:
        raise MediaError(
            f"{stream.path}: features {list(stream.shape)}; preset {preset.name} takes"
            f" [frames, {tower.tokens} (or {tower.patches} without CLS), {tower.width}]"
        )
    return tokens - tower.patches


def is_still(stream: Source) -> bool:
    """Whether the frames are images."""
    return stream.still if isinstance(stream, FrameStream) else stream.about.get("kind") == "images"


def feature_writer(
    path: str,
    system: str,
    preset: Preset,
    about: dict[str, str],
    *,
    num_prefix_tokens: int,
    weights: str = RANDOM,
    device: torch.device | str = "cpu",
) -> FeatureWriter:
    """A feature file for this preset's tower; `about` adds to what it says of itself."""
    tower, dtype = preset.tower, computed_in(preset, torch.device(device))
    return FeatureWriter(
        path, tower.patches + num_prefix_tokens, tower.width, dtype, {**describe(system, preset, weights), **about}
    )


def chunks(
    model: Sees,
    stream: Source,
    record: Record,
    meter: PeakMeter,
    *,
    paths: Sequence[str] = (OURS,),
    frames: int | None = None,
    writer: FeatureWriter | None = None,
    progress: Progress = lambda done: None,
) -> Iterator[Tensor]:
    """The tower's features, chunk by chunk, [F, N (+ 1), C]; what the caller does with one counts for its peak of memory.

    Args:
        record: takes the seconds of decoding (or reading), the tower and writing, the frames, and the peaks of `meter`.
        paths: whose peaks decoding and the tower belong to.
        frames: stop after so many. writer: keeps the features. progress: told the frames done.

    Raises:
        MediaError: no frames, or as the stream.
    """
    while frames is None or record.frames < frames:
        with meter(*paths):
            part = slice(None if frames is None else frames - record.frames)
            with record.clock("decode" if isinstance(stream, FrameStream) else "read"):
                chunk = next(stream, None)
                if isinstance(chunk, FeatureChunk):
                    features = chunk.features[part].to(model.device, model.dtype, non_blocking=True)
            if chunk is None:
                break
            if isinstance(chunk, FrameChunk):
                with record.clock("tower"):
                    features = model.encode(chunk.pixels[part])
            if writer is not None:
                with record.clock("write"):
                    writer.add(features.cpu(), chunk.times[part])
        yield features
        record.frames += features.shape[0]
        record.patches += features.shape[0] * features.shape[1]
        record.memory.append((record.frames, meter.take()))
        progress(record.frames)
    if not record.frames:
        raise MediaError("the input holds no frames")


def expected_frames(stream: Source, frames: int | None) -> int | None:
    """How many will come by what the header says, `frames` at most."""
    return min((count for count in (stream.expected, frames) if count is not None), default=None)


@torch.inference_mode()
def extract(
    system: str, model: Sees, stream: FrameStream, writer: FeatureWriter, *, progress: Progress = lambda done: None
) -> Record:
    """Writes the tower's tokens of every frame."""
    record, meter = Record(system, model.preset.name, (), device=model.device), PeakMeter(model.device)
    for _ in chunks(model, stream, record, meter, writer=writer, progress=progress):
        pass
    return record
