"""A path through VoCo-LLaMA: ours keeps the VoCo tokens' keys and values, the reference path all of them under a dense mask."""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longreel._explain import explain
from longreel.cache import VoCoCache
from longreel.cache.rollback import taken_back
from longreel.layout import VideoLayout
from longreel.models.prompts import Prompts
from longreel.models.record import EXACT
from longreel.models.system import Answer, Cached, Chunk, Clock, LiveSession, Session
from longreel.models.voco_llama import dense
from longreel.models.voco_llama.model import VoCoLlama


class CachedSession(LiveSession):
    """Stage 1 once for all questions, then stage 2 for each on a fork of the cache."""

    def __init__(self, model: VoCoLlama, prompts: Prompts, expected: int | None, max_bytes: int | None = None) -> None:
        check_positions(model, prompts, expected or 1)
        self._model, self._prompts = model, prompts
        self._prefix = prompts.prompts[0][0].tolist()
        self._cache, self._frames, self._max_bytes = model.decoder.cache(max_bytes), 0, max_bytes

    def consume(self, chunk: Chunk, clock: Clock) -> None:
        check_positions(self._model, self._prompts, self._frames + len(chunk.frames))
        with clock("vision"):
            self._cache = self._model.read(
                chunk.frames, prefix=self._prefix, cache=self._cache, at_once=self._model.preset.at_once
            )
        self._frames += len(chunk.frames)

    def finish(self, clock: Clock) -> Cached:
        return self._cached(self._model.backend or _backend(self._model))

    def _cached(self, backend: str | None) -> Cached:
        asked = self._cache.fork()
        return Cached(asked.rows, asked.nbytes, tokens_of(self._model, self._prompts, self._frames), backend)

    def answer(self, index: int, on_first: Callable[[], None]) -> Answer:
        asked, after = self._prompts, self._prompts.prompts[index][1].to(self._model.device)
        return Answer(*self._model.answer(self._cache, after, length=asked.length, stop=asked.stop, first=on_first))

    @property
    def nbytes(self) -> int:
        return self._cache.nbytes

    def append(self, chunk: Chunk) -> None:
        with taken_back(self._cache):
            self.consume(chunk, _untimed)
            tokens, most = self._cache.tokens, self._max_bytes
            if most is not None and self._cache.nbytes // tokens * (tokens + self.TEXT) > most:
                raise MemoryError(f"max_bytes={most} has no room for {tokens} tokens and {self.TEXT} of text")

    def ask(self, prompts: Prompts) -> Answer:
        check_positions(self._model, prompts, self._frames)
        after = prompts.prompts[0][1].to(self._model.device)
        return Answer(*self._model.answer(self._cache, after, length=prompts.length, stop=prompts.stop))

    def compared(self) -> Tensor:
        return _stacked(self._cache.fork())

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        self._cache.save(path, about)

    def load(self, path: Path, frames: int) -> Cached:
        config, device = self._model.language.config, self._model.device
        self._cache, self._frames = VoCoCache.load(path, config, device, max_bytes=self._max_bytes), frames
        return self._cached(None)


class DenseSession(Session):
    """The reference path, and the truth where it is `EXACT`: every question from the beginning, on every frame at once."""

    def __init__(self, model: VoCoLlama, prompts: Prompts, path: str, expected: int | None, compare: bool) -> None:
        check_positions(model, prompts, expected or 1)
        if compare or model.device.type == "cpu":
            # Alone on a GPU, its allocator says what fits.
            dense.check(model, prompts, expected)
        self._model, self._prompts, self._exact = model, prompts, path == EXACT
        self._held: list[Tensor] = []
        self._frames = torch.empty(0)

    def consume(self, chunk: Chunk, clock: Clock) -> None:
        self._held.append(chunk.frames)
        check_positions(self._model, self._prompts, sum(map(len, self._held)))

    def finish(self, clock: Clock) -> Cached:
        self._frames = torch.cat(self._held)
        self._held = []
        return Cached(tokens_of(self._model, self._prompts, len(self._frames)), 0)

    def prepare(self, index: int, clock: Clock) -> None:
        if self._exact and index == 0:
            self._model, self._frames = copy.deepcopy(self._model).double(), self._frames.double()
        before, after = (ids.to(self._model.device) for ids in self._prompts.prompts[index])
        with clock("vision"):
            self._whole = dense.Dense(self._model, self._frames, before, after)
            self._logits = self._whole.prefill()

    def answer(self, index: int, on_first: Callable[[], None]) -> Answer:
        asked = self._prompts
        ids = self._whole.answer(self._logits, length=asked.length, stop=asked.stop, first=on_first)
        return Answer(ids, self._logits)

    def compared(self) -> Tensor:
        return self._whole.cached()


def tokens_of(model: VoCoLlama, prompts: Prompts, frames: int) -> int:
    """Tokens that the language model reads of frames, the prefix included."""
    return len(prompts.prompts[0][0]) + frames * model.decoder.rule.frame


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


def _untimed(name: str) -> AbstractContextManager[None]:
    return nullcontext()


def _stacked(cache: VoCoCache) -> Tensor:
    """Keys and values [layers, 2, Hkv, rows, D] of one sample."""
    return torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers])


def _backend(model: VoCoLlama) -> str | None:
    """Which backend longreel chooses for a pass of the vision stage."""
    size, rule = model.preset.language, model.decoder.rule
    layout = VideoLayout.voco(frames=1, vision=rule.rows, separator=len(rule.separator), voco=rule.count, text=0)
    heads = (
        torch.empty(1, layout.length, n, size.head, dtype=model.dtype, device=model.device)
        for n in (size.heads, size.kv_heads)
    )
    query, key = heads
    return explain("block_sparse_attention", query, key, key, layout).chosen
