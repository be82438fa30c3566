"""A path through Video-LLaMA: frames to tokens as they come, all of them to 32 tokens at the end, and the sound to 8."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longreel.cache.file import CacheFile, write
from longreel.models.record import EXACT, OURS
from longreel.models.system import Answer, Cached, Chunk, Clock, Encoded, Session
from longreel.models.video_llama.branches import chosen_backend
from longreel.models.video_llama.model import VideoLlama
from longreel.models.video_llama.positions import check
from longreel.models.video_llama.prompts import HeardQuestions
from longreel.models.video_llama.reference import published
from longreel.models.video_llama.spool import FrameSpool

FORMAT = "video-llama-tokens/1"
# The float64 truth is computed for few frames at a time, so that it hardly shows beside the memory of what it judges.
_EXACT_FRAMES = 4


class VideoLlamaSession(Session):
    """Ours keeps the frames' tokens on disk and reads them once a layer; the reference path, and the truth where it is EXACT,
    has all of them in memory and every key and value projected."""

    def __init__(self, model: VideoLlama, prompts: HeardQuestions, path: str, expected: int | None) -> None:
        self._model, self._prompts, self._path = model, prompts, path
        size, adapter = model.preset, model.adapter
        needed = size.video.queries + size.listen.queries + prompts.longest
        if needed > size.language.positions:
            raise ValueError(f"{needed} tokens are more than the language model's {size.language.positions} positions")
        check(size.frames, expected or 1, adapter.interpolate, "frames")
        self._adapter = adapter
        if path != OURS:
            self._adapter = published(copy.deepcopy(adapter).double() if path == EXACT else adapter)
        self._spool, self._held = FrameSpool(), list[Tensor]()
        self._frames, self._sound = 0, list[Tensor]()
        self._visual, self._heard = torch.empty(0), torch.empty(0)
        self._backend: str | None = None

    def consume(self, chunk: Chunk, clock: Clock) -> None:
        # Before anything is computed.
        self._check(len(chunk.frames))
        self.take(self.part(chunk, clock), clock)

    def part(self, chunk: Chunk, clock: Clock) -> Encoded:
        """Tokens of the frames, and what was heard."""
        frames = chunk.frames
        if not len(frames):
            return Encoded(0, (None, chunk.audio))
        if self._path == EXACT:
            parts = [self._adapter.frame_tokens(few.double()) for few in torch.split(frames, _EXACT_FRAMES)]
            return Encoded(len(frames), (torch.cat(parts), chunk.audio))
        with clock("frame"):
            tokens = self._adapter.frame_tokens(frames)
        self._backend = self._backend or chosen_backend(self._model.adapter, frames)
        return Encoded(len(frames), (tokens, chunk.audio))

    def take(self, part: Encoded, clock: Clock) -> None:
        self._check(part.frames)
        self._frames += part.frames
        tokens, audio = part.tensors
        if audio is not None:
            self._sound.append(audio)
        if tokens is None:
            return
        if self._path != OURS:
            self._held.append(tokens)
            return
        with clock("frame"):
            self._spool.add(tokens)

    def _check(self, more: int) -> None:
        check(self._model.preset.frames, self._frames + more, self._adapter.interpolate, "frames")

    def finish(self, clock: Clock) -> Cached:
        with clock("video"):
            if self._path == OURS:
                self._visual = self._adapter.video_tokens_in_parts(len(self._spool), self._spool.parts)[0]
            else:
                self._visual = self._adapter.video_tokens(torch.cat(self._held)[None])[0]
                self._held = []
        self._heard = self._visual[:0]
        if self._sound:
            with clock("listen"):
                self._heard = self._adapter.audio_tokens(torch.cat(self._sound)[None].to(self._visual.dtype))[0]
        return self._cached()

    def _cached(self) -> Cached:
        tokens = len(self._visual) + len(self._heard)
        return Cached(tokens, self._visual.nbytes + self._heard.nbytes, backend=self._backend)

    def prepare(self, index: int, clock: Clock) -> None:
        if self._path == EXACT and index == 0:
            self._model = copy.deepcopy(self._model).double()

    def answer(self, index: int, on_first: Callable[[], None]) -> Answer:
        asked, device = self._prompts, self._visual.device
        if len(self._heard):
            before, between, after = (ids.to(device) for ids in asked.hearing[index])
            parts: tuple[Tensor, ...] = (before, self._heard, between, self._visual)
        else:
            before, after = (ids.to(device) for ids in asked.prompts[index])
            parts = (before, self._visual)
        return Answer(*self._model.answer(parts, after, length=asked.length, stop=asked.stop, first=on_first))

    def compared(self) -> Tensor:
        return torch.cat([self._visual, self._heard])

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        tensors = {"video": self._visual.cpu().contiguous(), "audio": self._heard.cpu().contiguous()}
        write(path, {"format": FORMAT, "about": about}, tensors)

    def load(self, path: Path, frames: int) -> Cached:
        like, size = self._model.adapter.llama_proj.weight, self._model.preset
        file = CacheFile(path, "saved memory", str(like.device))
        if file.header.get("format") != FORMAT or file.names != {"video", "audio"}:
            file.refuse(f"its format is {file.header.get('format')!r} and it holds {sorted(file.names)}")
        width = size.language.width
        video, heard = file.shape("video"), file.shape("audio")
        if video != (size.video.queries, width) or heard not in ((0, width), (size.listen.queries, width)):
            file.refuse(f"its tokens are {list(video)} and {list(heard)}")
        self._visual, self._heard = (file.tensor(name).to(like.dtype) for name in ("video", "audio"))
        return self._cached()
