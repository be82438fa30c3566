"""A path through Video-XL: windows into a memory as the frames come, then every question on it."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longreel._explain import explain
from longreel.cache.rollback import taken_back
from longreel.layout import VideoLayout
from longreel.models.generation import greedy
from longreel.models.prompts import Prompts
from longreel.models.record import EXACT
from longreel.models.system import Answer, Cached, Chunk, Clock, Encoded, LiveSession, Session
from longreel.models.tower import by_few
from longreel.models.video_xl.model import VideoXL
from longreel.models.video_xl.published import Published


class WindowedSession(Session):
    """Visual tokens wait until a window is full; the last window may be a shorter one."""

    def __init__(self, model: VideoXL, prompts: Prompts, expected: int | None) -> None:
        check_ratio(model)
        check_positions(model, prompts, expected or 1)
        self._model, self._prompts, self._frames = model, prompts, 0
        # Of its own, from the seed on: every path has the same ratios.
        self._draw = model.decoder.ratios()
        self._prefix = prompts.prompts[0][0]
        # [n, E], fewer than a window.
        self._waiting = list[Tensor]()

    def consume(self, chunk: Chunk, clock: Clock) -> None:
        # Before anything is computed.
        check_positions(self._model, self._prompts, self._frames + len(chunk.frames))
        self.take(self.part(chunk, clock), clock)

    def part(self, chunk: Chunk, clock: Clock) -> Encoded:
        """Visual tokens [n, E]."""
        with clock("project"):
            return Encoded(len(chunk.frames), (self._project(chunk.frames).flatten(0, 1),))

    def take(self, part: Encoded, clock: Clock) -> None:
        check_positions(self._model, self._prompts, self._frames + part.frames)
        self._frames += part.frames
        (projected,) = part.tensors
        assert projected is not None
        with clock("project"):
            tokens = torch.cat([*self._waiting, projected])
        window = self._model.preset.window
        whole = len(tokens) - len(tokens) % window
        with clock("memory"):
            self._encode(tokens[:whole])
        # What waits must not hold on to what is done.
        self._waiting = [tokens[whole:].clone()]

    def finish(self, clock: Clock) -> Cached:
        with clock("memory"):
            self._encode(torch.cat(self._waiting))
        self._waiting = []
        return self._cached()

    @abstractmethod
    def _project(self, features: Tensor) -> Tensor:
        """[F, N, C] -> [F, tokens, E]."""

    @abstractmethod
    def _encode(self, tokens: Tensor) -> None:
        """Visual tokens [n, E]: whole windows, or at the end of the video a shorter one."""

    @abstractmethod
    def _cached(self) -> Cached: ...


class MemorySession(WindowedSession, LiveSession):
    """A `VSTCache`; each question on a fork of it. live: questions come later, of up to `TEXT` tokens."""

    def __init__(
        self,
        model: VideoXL,
        prompts: Prompts,
        expected: int | None,
        *,
        max_bytes: int | None = None,
        live: bool = False,
    ) -> None:
        super().__init__(model, prompts, expected)
        self._max_bytes, self._text = max_bytes, self.TEXT if live else prompts.longest
        room = len(self._prefix) + vst_of(model, expected or 1)
        if max_bytes is not None:
            size = model.preset.language
            each = 2 * size.layers * size.kv_heads * size.head * model.dtype.itemsize
            room = max_bytes // each - self._text
            if room < len(self._prefix) + 1:
                raise MemoryError(f"max_bytes={max_bytes} has no room for the prefix and {self._text} tokens of text")
        self._cache = model.decoder.cache(room, text_capacity=self._text, max_bytes=max_bytes)

    def _project(self, features: Tensor) -> Tensor:
        return by_few(self._model.project, features)

    def _encode(self, tokens: Tensor) -> None:
        self._cache = self._model.decoder.encode(
            tokens,
            prefix=self._prefix.tolist(),
            cache=self._cache,
            chunks=self._model.decoder.windows(len(tokens), self._draw),
            at_once=self._model.preset.at_once,
        )

    def _cached(self) -> Cached:
        read = len(self._prefix) + self._frames * self._model.preset.frame
        return Cached(self._cache.tokens, self._cache.nbytes, read, self._model.backend or _backend(self._model))

    def answer(self, index: int, on_first: Callable[[], None]) -> Answer:
        asked, after = self._prompts, self._prompts.prompts[index][1]
        return Answer(*self._model.answer(self._cache, after, length=asked.length, stop=asked.stop, first=on_first))

    @property
    def nbytes(self) -> int:
        return self._cache.nbytes

    def append(self, chunk: Chunk) -> None:
        before = self._frames, self._waiting, copy.deepcopy(self._draw)
        try:
            with taken_back(self._cache):
                self.consume(chunk, _untimed)
        except BaseException:
            self._frames, self._waiting, self._draw = before
            raise

    def ask(self, prompts: Prompts) -> Answer:
        check_positions(self._model, prompts, self._frames)
        with self._as_if_ended():
            given = {"length": prompts.length, "stop": prompts.stop}
            return Answer(*self._model.answer(self._cache, prompts.prompts[0][1], **given))

    @contextmanager
    def _as_if_ended(self) -> Iterator[None]:
        """What waits for a full window is encoded as the last one, and taken back."""
        if not self._waiting or not len(self._waiting[0]):
            yield
            return
        draw = copy.deepcopy(self._draw)
        try:
            with taken_back(self._cache, always=True):
                self._encode(self._waiting[0])
                yield
        finally:
            self._draw = draw

    def compared(self) -> Tensor:
        return torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in self._cache.layers])

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        with self._as_if_ended():
            self._cache.save(path, about)

    def load(self, path: Path, frames: int) -> Cached:
        self._cache = self._model.decoder.load(path, text_capacity=self._text, max_bytes=self._max_bytes)
        self._frames = frames
        # What comes behind goes on with the ratios behind those.
        self._model.decoder.windows(frames * self._model.preset.frame, self._draw)
        return self._cached()


class PublishedSession(WindowedSession):
    """The reference path, and the truth where it is `EXACT`."""

    def __init__(self, model: VideoXL, prompts: Prompts, path: str, expected: int | None) -> None:
        super().__init__(model, prompts, expected)
        self._path: Published | None = None
        self._exact = path == EXACT

    def _project(self, features: Tensor) -> Tensor:
        if self._path is None:
            model = copy.deepcopy(self._model).double() if self._exact else self._model
            self._path = Published(model)
            self._path.text(self._prefix)
        return self._path.project(features.double() if self._exact else features)

    def _encode(self, tokens: Tensor) -> None:
        assert self._path is not None
        at = 0
        for length, ratio in self._model.decoder.windows(len(tokens), self._draw):
            self._path.window(tokens[at : at + length], ratio)
            at += length

    def _cached(self) -> Cached:
        assert self._path is not None
        tokens = self._path.size
        each = sum(2 * k[0, :, 0].numel() * k.element_size() for k, _ in self._path._held())
        return Cached(tokens, tokens * each, len(self._prefix) + self._frames * self._model.preset.frame)

    def answer(self, index: int, on_first: Callable[[], None]) -> Answer:
        assert self._path is not None
        asked, fork = self._prompts, self._path.fork()
        logits = fork.text(asked.prompts[index][1])
        ids = greedy(
            lambda one: fork.text(one[0])[-1], logits[-1], length=asked.length, stop=asked.stop, first=on_first
        )
        return Answer(ids, logits)

    def compared(self) -> Tensor:
        assert self._path is not None
        return self._path.rotated()


def vst_of(model: VideoXL, frames: int) -> int:
    """VST tokens of so many frames, at least."""
    preset, carry, vst = model.preset, 0, 0
    for length, ratio in model.decoder.windows(frames * preset.frame, model.decoder.ratios()):
        vst, carry = vst + (length + carry) // ratio, (length + carry) % ratio
    return vst


def check_ratio(model: VideoXL) -> None:
    """ValueError where a last window of one frame would leave nothing."""
    frame, ratios = model.preset.frame, model.decoder.ratios().ratios
    if max(ratios) > frame:
        raise ValueError(f"--ratio {max(ratios)}: a frame has {frame} visual tokens, and nothing of it would stay")
    if len(ratios) > 1 and not any(frame % ratio == 0 for ratio in ratios):
        given = ",".join(map(str, ratios))
        raise ValueError(f"--ratio {given}: of several ratios one must divide the {frame} visual tokens of a frame")


def check_positions(model: VideoXL, questions: Prompts, frames: int) -> None:
    """ValueError where the memory, the longest question and its answer have no room among the positions."""
    limit, frame = model.preset.language.positions, model.preset.frame
    ratios = model.decoder.ratios().ratios
    vst = frames * frame // ratios[0] if len(ratios) == 1 else vst_of(model, frames)
    needed = vst + questions.longest
    if needed > limit:
        given = ",".join(map(str, ratios))
        raise ValueError(
            f"{frames:,} frames at ratio {given} need {needed:,} positions, more than the language model's {limit:,}:"
            f" {max(0, limit - questions.longest) * min(ratios) // frame:,} frames fit"
        )


def _untimed(name: str) -> AbstractContextManager[None]:
    return nullcontext()


def _backend(model: VideoXL) -> str | None:
    """Which backend longreel chooses for a window's attention."""
    preset = model.preset
    ratio = model.decoder.ratios().next(preset.window)
    layout = VideoLayout.vst(visual=preset.window, ratio=[(preset.window, ratio)]).grouped()
    size = preset.language
    q, k = (
        torch.empty(1, layout.length, n, size.head, dtype=model.dtype, device=model.device)
        for n in (size.heads, size.kv_heads)
    )
    memory = torch.empty(1, size.kv_heads, preset.window, size.head, dtype=model.dtype, device=model.device)
    length = torch.zeros(1, dtype=torch.int32, device=model.device)
    return explain("vst_attention", q, k, k, memory, memory, length, layout).chosen
