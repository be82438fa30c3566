"""A video, images or a feature file through VoCo-LLaMA, chunk by chunk: the VoCo tokens' keys and values are all that grows."""

import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from longreel._explain import explain
from longreel.cache import VoCoCache
from longreel.data import FeatureWriter
from longreel.layout import VideoLayout
from longreel.models.feed import Progress, Source, chunks, expected_frames
from longreel.models.questions import Prompts
from longreel.models.record import EXACT, OURS, REFERENCE, Ops, PeakMeter, Record
from longreel.models.voco_llama import dense
from longreel.models.voco_llama.kept import SYSTEM, Kept, keep
from longreel.models.voco_llama.model import VoCoLlama
from longreel.models.weights import RANDOM


@torch.inference_mode()
def run(
    model: VoCoLlama,
    stream: Source | Kept,
    questions: Prompts,
    *,
    ops: Ops = "longreel",
    compare: bool = False,
    frames: int | None = None,
    writer: FeatureWriter | None = None,
    kept: Path | None = None,
    weights: str = RANDOM,
    progress: Progress = lambda done: None,
) -> Record:
    """Stage 1 once for all questions, then stage 2 for each on a fork of the cache.

    Args:
        model: with the VoCo tokens and the rule that the frames get. stream: where frames, features or kept rows come from.
        ops: the path to run; "reference": everything in one forward pass a question, under a dense mask.
        compare: both, and float64 on the reference path. Decoding and the tower are the same code on every path and are timed
            once.
        frames: stop after so many.
        writer: keeps the features. kept: where the VoCo tokens' rows go, for later questions; `weights` is what the file says
            of the model's. progress: told the frames done.

    Raises:
        MediaError: no frames, or as the stream. ValueError: too many positions for the language model, or more asked of
            kept rows than questions. MemoryError: a dense mask that does not fit.
    """
    if isinstance(stream, Kept):
        if compare or ops == REFERENCE or writer or kept or (frames or stream.frames) != stream.frames:
            raise ValueError(
                f"{stream.path}: keeps no frames, it answers questions about all {stream.frames:,} of them"
            )
        return _later(model, stream, questions)
    preset, rule = model.preset, model.decoder.rule
    paths = (OURS, REFERENCE) if compare else (ops,)
    record, meter = Record(SYSTEM, preset.name, questions.texts, paths, device=model.device), PeakMeter(model.device)
    record.steps = preset.language.layers
    expected = expected_frames(stream, frames)
    check_positions(model, questions, expected or 1)
    if compare or (ops == REFERENCE and model.device.type == "cpu"):
        # Alone on a GPU, its allocator says what fits.
        dense.check(model, questions, expected)
    start = time.perf_counter()
    _warm(model, questions)
    record.startup = time.perf_counter() - start
    prefix = questions.prompts[0][0].tolist()
    cache, held = model.decoder.cache(), list[Tensor]()
    seen = chunks(model, stream, record, meter, paths=paths, frames=frames, writer=writer, progress=progress)
    for features in seen:
        check_positions(model, questions, record.frames + len(features))
        if OURS in paths:
            with meter(OURS), record.clock("see", OURS):
                cache = model.read(features, prefix=prefix, cache=cache, at_once=preset.at_once)
        if REFERENCE in paths:
            held.append(features)
    rows = len(prefix) + record.frames * rule.frame
    if kept is not None:
        with record.clock("keep", OURS):
            keep(cache, kept, model, record, weights)
    if OURS in paths:
        _ask(model, cache, questions, record, meter)
        record.rows, record.backend = rows, model.backend or _backend(model, features)
    else:
        record.tokens, record.backend = rows, ops
    if REFERENCE in paths:
        _read_densely(model, torch.cat(held), questions, record, meter, exact=compare)
    return _finished(record, questions, meter)


def _later(model: VoCoLlama, kept: Kept, questions: Prompts) -> Record:
    """Questions about what an earlier run kept."""
    record, meter = Record(SYSTEM, model.preset.name, questions.texts, device=model.device), PeakMeter(model.device)
    check_positions(model, questions, kept.frames)
    start = time.perf_counter()
    _warm(model, questions)
    record.startup = time.perf_counter() - start
    with meter(OURS), record.clock("load"):
        cache = VoCoCache.load(kept.path, model.language.config, model.device)
    record.frames, record.patches = kept.frames, kept.patches
    record.rows = len(questions.prompts[0][0]) + kept.frames * model.decoder.rule.frame
    _ask(model, cache, questions, record, meter)
    return _finished(record, questions, meter)


def _finished(record: Record, questions: Prompts, meter: PeakMeter) -> Record:
    if questions.decode is not None:
        record.answers = tuple(questions.decode(chosen) for chosen in record.ids[record.paths[0]])
    peaks = meter.take()
    record.memory.append((record.frames, {path: peaks[path] for path in record.paths}))
    return record


def _ask(model: VoCoLlama, cache: VoCoCache, questions: Prompts, record: Record, meter: PeakMeter) -> None:
    """Stage 2: every question on a fork of the cache."""
    asked = cache.fork()
    record.tokens, record.tokens_bytes = asked.rows, asked.nbytes
    answers = []
    for _, after in questions.prompts:
        ask = partial(model.answer, cache, after.to(model.device), length=questions.length, stop=questions.stop)
        with meter(OURS), record.clock("language", OURS):
            start = record.now()
            answers.append(record.answer(OURS, ask))
            record.answer_seconds.append(record.now() - start)
    _take(record, OURS, answers)
    if REFERENCE in record.paths:
        record.visual[OURS] = _stacked(asked)


def positions(model: VoCoLlama, frames: int) -> int:
    """Positions that frames take behind the prefix."""
    rule = model.decoder.rule
    return frames * rule.frame if rule.absolute else (frames - 1) * rule.count + rule.frame


def check_positions(model: VoCoLlama, questions: Prompts, frames: int) -> None:
    """ValueError where frames, the longest question and its answer have no room among the language model's positions."""
    limit = model.preset.language.positions
    needed = positions(model, frames) + questions.longest
    if needed > limit:
        first, each = positions(model, 1), positions(model, 2) - positions(model, 1)
        fit = max(0, (limit - questions.longest - first) // each + 1)
        raise ValueError(
            f"{frames:,} frames need {needed:,} positions, more than the language model's {limit:,}: {fit:,} frames fit"
        )


def _read_densely(
    model: VoCoLlama, features: Tensor, questions: Prompts, record: Record, meter: PeakMeter, *, exact: bool
) -> None:
    """The reference path, and the truth where it is `exact`: every question from the beginning."""
    for path in (REFERENCE, EXACT) if exact else (REFERENCE,):
        speaker = copy.deepcopy(model).double() if path == EXACT else model
        given, answers = features.double() if path == EXACT else features, []
        for before, after in questions.prompts:
            with meter(path):
                with record.clock("see", path):
                    whole = dense.Dense(speaker, given, before.to(model.device), after.to(model.device))
                    logits = whole.prefill()
                with record.clock("language", path):
                    answers.append(record.answer(path, partial(_go_on, whole, logits, questions)))
        _take(record, path, answers)
        if exact:
            record.visual[path] = whole.kept()


def _go_on(whole: dense.Dense, logits: Tensor, questions: Prompts, first: Callable[[], None]) -> tuple[Tensor, Tensor]:
    return whole.answer(logits, length=questions.length, stop=questions.stop, first=first), logits


def _take(record: Record, path: str, answers: list[tuple[Tensor, Tensor]]) -> None:
    record.ids[path] = [chosen.tolist() for chosen, _ in answers]
    record.logits[path] = [logits for _, logits in answers]


def _stacked(cache: VoCoCache) -> Tensor:
    """Keys and values [layers, 2, Hkv, rows, D] of one sample."""
    return torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers])


def _warm(model: VoCoLlama, questions: Prompts) -> None:
    """One black frame through everything: what a first call sets up is no stage's time."""
    image = model.preset.tower.image
    cache = model.see(torch.zeros(1, image, image, 3, dtype=torch.uint8), prefix=questions.prompts[0][0].tolist())
    model.answer(cache, questions.prompts[0][1].to(model.device), length=2)


def _backend(model: VoCoLlama, features: Tensor) -> str | None:
    """Which backend longreel chooses for a pass of the vision stage."""
    size, rule = model.preset.language, model.decoder.rule
    layout = VideoLayout.voco(frames=1, vision=rule.rows, separator=len(rule.separator), voco=rule.count, text=0)
    heads = (features.new_empty(1, layout.length, n, size.width // size.heads) for n in (size.heads, size.kv_heads))
    query, key = heads
    return explain("block_sparse_attention", query, key, key, layout).chosen
