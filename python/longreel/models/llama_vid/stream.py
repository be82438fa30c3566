"""A video, images or a feature file through LLaMA-VID, chunk by chunk: the tokens kept are all that grows."""

import contextlib
import copy
import itertools
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from longreel.data import FeatureStream, FeatureWriter, FrameChunk, FrameStream, MediaError
from longreel.explain import explain
from longreel.models.llama_vid.model import LlamaVid, byte_ids
from longreel.models.llama_vid.presets import Preset
from longreel.models.record import EXACT, OURS, REFERENCE, PeakMeter, Record

SYSTEM = "llama-vid"
# Ids chosen after every question.
ANSWER = 8
# The float64 truth is computed for few frames at a time, so that it hardly shows beside the memory of what it judges.
_EXACT_FRAMES = 4


def describe(preset: Preset) -> dict[str, str]:
    """What a feature file says of the tower that made it."""
    return {"system": SYSTEM, "preset": preset.name, "tower": str(preset.tower), "weights": "random, seed 0"}


def check_features(stream: FeatureStream, preset: Preset) -> None:
    """MediaError unless the file was made by this preset's tower."""
    for key, ours in describe(preset).items():
        if stream.about.get(key) != ours:
            raise MediaError(f"{stream.path}: made with {key} {stream.about.get(key)!r}, this run has {key} {ours!r}")
    expected = (preset.tower.tokens, preset.tower.width)
    if stream.shape[1:] != expected or stream.dtype != getattr(torch, preset.dtype):
        raise MediaError(
            f"{stream.path}: features {list(stream.shape)} {stream.dtype}; preset {preset.name} takes"
            f" [frames, {expected[0]}, {expected[1]}] torch.{preset.dtype}"
        )


def is_still(stream: FrameStream | FeatureStream) -> bool:
    """Whether the frames are images, which keep all their patches."""
    return stream.still if isinstance(stream, FrameStream) else stream.about.get("kind") == "images"


def feature_writer(path: str, preset: Preset, about: dict[str, str]) -> FeatureWriter:
    """A feature file for this preset's tower; `about` adds to what it says of itself."""
    tower = preset.tower
    return FeatureWriter(path, tower.tokens, tower.width, getattr(torch, preset.dtype), {**describe(preset), **about})


@torch.inference_mode()
def extract(
    model: LlamaVid, stream: FrameStream, writer: FeatureWriter, *, progress: Callable[[int], None] = lambda done: None
) -> Record:
    """Writes the tower's tokens of every frame."""
    record = Record(SYSTEM, model.preset.name, ())
    meter = PeakMeter()
    while True:
        with meter(OURS):
            with record.clock("decode"):
                chunk = next(stream, None)
            if chunk is None:
                break
            with record.clock("tower"):
                features = model.encode(chunk.pixels)
            with record.clock("write"):
                writer.add(features, chunk.times)
        _count(record, features, meter, progress)
    return record


@torch.inference_mode()
def run(
    model: LlamaVid,
    stream: FrameStream | FeatureStream,
    questions: Sequence[str],
    *,
    compare: bool = False,
    writer: FeatureWriter | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Record:
    """Every question in one pass: a frame is decoded, seen by the tower and read by the compression once for all.

    Args:
        model: with the content tokens that the input gets. stream: where its frames or features come from.
        compare: compress in the released order too, in turn with ours, and in float64; the language model then runs on
            each. The other stages are the same code on every path and are timed once.
        writer: keeps the features, for later questions. progress: told the frames done.

    Raises:
        MediaError: no frames, or as the stream. ValueError: too many tokens for the language model.
    """
    ids, mask = byte_ids(questions)
    record, meter = Record(SYSTEM, model.preset.name, tuple(questions)), PeakMeter()
    paths = (OURS, REFERENCE) if compare else (OURS,)
    exact = copy.deepcopy(model.adapter).double() if compare else None
    limit = model.preset.language.positions
    kept = {path: _Kept(limit) for path in (*paths, *([EXACT] if compare else []))}
    start = time.perf_counter()
    _warm(model, ids, mask, paths)
    record.startup = time.perf_counter() - start
    orders = itertools.cycle([paths, paths[::-1]])
    while True:
        with meter(*paths):
            with record.clock("decode" if isinstance(stream, FrameStream) else "read"):
                chunk = next(stream, None)
            if chunk is None:
                break
            if isinstance(chunk, FrameChunk):
                with record.clock("tower"):
                    features = model.encode(chunk.pixels)
            else:
                features = chunk.features
            if writer is not None:
                with record.clock("write"):
                    writer.add(features, chunk.times)
            with record.clock("query"):
                queries = model.query(ids, features, mask)
        for path in next(orders):
            with meter(path), record.clock("compress", path):
                tokens = model.compress(queries, features, ops="longreel" if path == OURS else "reference")
                kept[path].add(tokens, len(features), stream.expected)
        if exact is not None:
            for part in range(0, len(features), _EXACT_FRAMES):
                few = slice(part, part + _EXACT_FRAMES)
                truth = exact.compress(queries[:, few].double(), features[few].double(), ops="reference")
                kept[EXACT].add(truth, len(features[few]), stream.expected)
        record.backend = record.backend or _backend(model, queries, features)
        _count(record, features, meter, progress)
    if not record.frames:
        raise MediaError("the input holds no frames")
    record.visual = {path: buffer.whole() for path, buffer in kept.items()}
    record.tokens = record.visual[OURS].shape[1]
    for path, visual in record.visual.items():
        speaker = copy.deepcopy(model).double() if path == EXACT else model
        # The same code on every path: the clock of ours counts for the reference path too.
        with meter(path), record.clock("language") if path == OURS else contextlib.nullcontext():
            answers = [
                speaker.answer(tokens, asked[valid], length=ANSWER)
                for tokens, asked, valid in zip(visual, ids, mask, strict=True)
            ]
        record.ids[path] = [chosen.tolist() for chosen, _ in answers]
        record.logits[path] = [logits for _, logits in answers]
    peaks = meter.take()
    record.memory.append((record.frames, {path: peaks[path] for path in paths}))
    return record


def _warm(model: LlamaVid, ids: Tensor, mask: Tensor, paths: Sequence[str]) -> None:
    """One black frame through everything: what a first call sets up is no stage's time."""
    image = model.preset.tower.image
    features = model.encode(torch.zeros(1, image, image, 3, dtype=torch.uint8))
    queries = model.query(ids, features, mask)
    for path in paths:
        tokens = model.compress(queries, features, ops="longreel" if path == OURS else "reference")
    model.answer(tokens[0], ids[0][mask[0]], length=2)


class _Kept:
    """The language model's tokens of all frames so far, in one buffer [P, capacity, H] made for as many as are expected."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = torch.empty(0, 0, 0)
        self._length = 0

    def add(self, tokens: Tensor, frames: int, expected: int | None) -> None:
        """Append the tokens [P, frames * (1 + n), H]; `expected` frames will come by what the header says."""
        prompts, count, width = tokens.shape
        end = self._length + count
        if end > self._limit:
            raise ValueError(f"{end} tokens so far are more than the language model's {self._limit} positions")
        if end > self._buffer.shape[1]:
            hoped = (expected or 0) * (count // frames)
            grown = tokens.new_empty(prompts, min(max(end, hoped, 2 * self._length), self._limit), width)
            if self._length:
                grown[:, : self._length] = self.whole()
            self._buffer = grown
        self._buffer[:, self._length : end] = tokens
        self._length = end

    def whole(self) -> Tensor:
        return self._buffer[:, : self._length]


def _count(record: Record, features: Tensor, meter: PeakMeter, progress: Callable[[int], None]) -> None:
    record.frames += features.shape[0]
    record.patches += features.shape[0] * features.shape[1]
    record.memory.append((record.frames, meter.take()))
    progress(record.frames)


def _backend(model: LlamaVid, queries: Tensor, features: Tensor) -> str | None:
    """Which backend longreel chooses for this model's chunks."""
    attention = model.adapter.attention
    if attention.backend is not None:
        return attention.backend
    query = features.new_empty(*queries.shape[:-1], features.shape[-1])
    pooling = {**attention.pooling, "num_prefix_tokens": attention.num_prefix_tokens}
    return explain("compress_frames", query, features, **pooling).chosen
