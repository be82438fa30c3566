"""What the encoders make of an input, chunk by chunk, with the seconds and the memory that it takes."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from longreel.data import FeatureChunk, FeatureWriter, MediaError
from longreel.measure.memory import PeakMeter, return_free_memory
from longreel.models.inputs import AUDIO, Input, Progress
from longreel.models.record import OURS, RunRecord
from longreel.models.system import Chunk, Model


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
            del read
            if writer is not None:
                with record.clock("write"):
                    others = {} if chunk.audio is None else {AUDIO: (chunk.audio.cpu(), heard)}
                    writer.add(chunk.frames.cpu(), times, others)
        # What one stage freed is in pieces between what is held for good, and of no use to the next one's larger blocks.
        return_free_memory()
        yield chunk
        record.frames += chunk.frames.shape[0]
        record.patches += chunk.frames.shape[0] * chunk.frames.shape[1]
        # Not beside the next one.
        del chunk
        record.memory.append((record.frames, meter.take()))
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
    """At most `most` frames of a video or of images, through the tower piece by piece; and the sound up to them."""
    assert source.frames is not None
    chunk, done = source.chunk or model.preset.chunk, 0
    hoped = min(n for n in (chunk, most, source.expected and source.expected - record.frames) if n is not None)
    features, times = None, list[Tensor]()
    while done < chunk and (most is None or done < most):
        with record.clock("decode"):
            taken = next(source.frames, None)
        if taken is None:
            break
        with record.clock("tower"):
            encoded = model.encode(taken.pixels if most is None else taken.pixels[: most - done])
            features = _behind(features, done, encoded, hoped)
        times.append(taken.times[: len(encoded)])
        done += len(encoded)
    with record.clock("decode"):
        # Behind the last frame comes the rest of the sound, with no frame of its own.
        clips = None if source.sound is None else source.sound.until(times[-1][-1].item() if done else math.inf)
    silent = clips is None or not len(clips.times)
    if features is None:
        if silent:
            return None
        image = model.preset.tower.image
        features = model.encode(torch.empty(0, image, image, 3, dtype=torch.uint8))
    shown = torch.cat([torch.empty(0, dtype=torch.float64), *times])
    if clips is None or silent:
        return Chunk(features[:done], None), shown, torch.empty(0)
    with record.clock("audio"):
        audio = model.encode_audio(clips.samples)
    return Chunk(features[:done], audio), shown, clips.times


def _behind(features: Tensor | None, done: int, encoded: Tensor, hoped: int) -> Tensor:
    """The features of a chunk's first `done` frames with those `encoded` behind them, where `hoped` frames are hoped for."""
    if features is None and len(encoded) >= hoped:
        return encoded
    if features is None or len(features) < done + len(encoded):
        grown = encoded.new_empty(max(hoped, done + len(encoded)), *encoded.shape[1:])
        if features is not None:
            grown[:done] = features[:done]
        features = grown
    features[done : done + len(encoded)] = encoded
    return features
