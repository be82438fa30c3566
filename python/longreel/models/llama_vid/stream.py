"""A video, images or a feature file through LLaMA-VID, chunk by chunk: the tokens kept are all that grows."""

import contextlib
import copy
import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from longreel._explain import explain
from longreel.data import FeatureWriter
from longreel.models.feed import Progress, Source, chunks, expected_frames
from longreel.models.llama_vid.model import LlamaVid
from longreel.models.llama_vid.questions import Questions
from longreel.models.record import EXACT, OURS, REFERENCE, Ops, PeakMeter, Record, return_free_memory
from longreel.models.speak import unheard

SYSTEM = "llama-vid"
# The float64 truth is computed for few frames at a time, so that it hardly shows beside the memory of what it judges.
_EXACT_FRAMES = 4


@torch.inference_mode()
def run(
    model: LlamaVid,
    stream: Source,
    questions: Questions,
    *,
    ops: Ops = "longreel",
    compare: bool = False,
    frames: int | None = None,
    writer: FeatureWriter | None = None,
    progress: Progress = lambda done: None,
) -> Record:
    """Every question in one pass: a frame is decoded, seen by the tower and read by the compression once for all.

    Args:
        model: with the content tokens that the input gets. stream: where its frames or features come from.
        ops: the path to run, as in `Adapter`.
        compare: both; text queries and compression in the released order too, in turn with ours, and in float64; the language
            model then runs on each. The other stages are the same code on every path and are timed once.
        frames: stop after so many.
        writer: keeps the features, for later questions. progress: told the frames done.

    Raises:
        MediaError: no frames, or as the stream. ValueError: too many tokens for the language model.
    """
    paths = (OURS, REFERENCE) if compare else (ops,)
    record = Record(SYSTEM, model.preset.name, questions.texts, paths, device=model.device)
    meter = PeakMeter(model.device)
    record.steps = model.preset.qformer.layers + 1
    exact = copy.deepcopy(model.adapter).double() if compare else None
    limit = model.preset.language.positions - questions.longest
    kept = {path: _Kept(limit) for path in (*paths, *([EXACT] if compare else []))}
    expected = expected_frames(stream, frames)
    ids, mask = questions.ids.to(model.device), questions.mask.to(model.device)
    valid = model.adapter.query_mask(mask)
    start = time.perf_counter()
    _warm(model, questions, paths)
    record.startup = time.perf_counter() - start
    orders = itertools.cycle([paths, paths[::-1]])
    seen = chunks(model, stream, record, meter, paths=paths, frames=frames, writer=writer, progress=progress)
    for features in seen:
        for path in next(orders):
            with meter(path):
                with record.clock("query", path):
                    queries = model.query(ids, features, mask, ops=_ops(path))
                with record.clock("compress", path):
                    tokens = model.compress(queries, features, mask=valid, ops=_ops(path))
                    kept[path].add(tokens, len(features), expected)
        if exact is not None:
            for few in torch.split(features.double(), _EXACT_FRAMES):
                truth = exact.compress(exact.query(ids, few, mask, ops="reference"), few, mask=valid, ops="reference")
                kept[EXACT].add(truth, len(few), expected)
        record.backend = record.backend or (_backend(model, queries, features) if OURS in paths else ops)
    record.visual = {path: buffer.whole() for path, buffer in kept.items()}
    record.tokens, record.tokens_bytes = record.visual[paths[0]].shape[1], record.visual[paths[0]].nbytes
    return_free_memory()
    for path, visual in record.visual.items():
        speaker = copy.deepcopy(model).double() if path == EXACT else model
        # The same code on every path: the clock of the first counts for the others too.
        with meter(path), record.clock("language") if path == paths[0] else contextlib.nullcontext():
            answers = [
                record.answer(path, partial(_answer, speaker, tokens, questions, index))
                for index, tokens in enumerate(visual)
            ]
        record.ids[path] = [chosen.tolist() for chosen, _ in answers]
        record.logits[path] = [logits for _, logits in answers]
    if questions.decode is not None:
        record.answers = tuple(questions.decode(chosen) for chosen in record.ids[paths[0]])
    peaks = meter.take()
    record.memory.append((record.frames, {path: peaks[path] for path in paths}))
    return record


def _ops(path: str) -> Ops:
    return "longreel" if path == OURS else "reference"


def _answer(
    model: LlamaVid, visual: Tensor, questions: Questions, index: int, first: Callable[[], None] = unheard
) -> tuple[Tensor, Tensor]:
    before, after = (ids.to(visual.device) for ids in questions.prompts[index])
    return model.answer(visual, before, after, length=questions.length, stop=questions.stop, first=first)


def _warm(model: LlamaVid, questions: Questions, paths: Sequence[str]) -> None:
    """One black frame through everything: what a first call sets up is no stage's time."""
    image, ids, mask = model.preset.tower.image, questions.ids.to(model.device), questions.mask.to(model.device)
    features = model.encode(torch.zeros(1, image, image, 3, dtype=torch.uint8))
    for path in paths:
        queries = model.query(ids, features, mask, ops=_ops(path))
        tokens = model.compress(queries, features, mask=model.adapter.query_mask(mask), ops=_ops(path))
    _answer(model, tokens[0], questions, 0)


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
            raise ValueError(
                f"{end} tokens so far are more than the {self._limit} positions that the language model has left"
            )
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


def _backend(model: LlamaVid, queries: Tensor, features: Tensor) -> str | None:
    """Which backend longreel chooses for this model's chunks."""
    attention = model.adapter.attention
    if attention.backend is not None:
        return attention.backend
    query = features.new_empty(*queries.shape[:-1], features.shape[-1])
    pooling = {**attention.pooling, "num_prefix_tokens": attention.num_prefix_tokens}
    return explain("compress_frames", query, features, **pooling).chosen
