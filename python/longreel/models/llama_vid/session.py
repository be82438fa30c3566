"""A path through LLaMA-VID, chunk by chunk: the tokens cached are all that grows."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from longreel._explain import explain
from longreel.models.llama_vid.model import LlamaVid
from longreel.models.llama_vid.prompts import Questions
from longreel.models.record import EXACT, OURS, Ops
from longreel.models.system import Answer, Chunk, Clock, Encoded
from longreel.models.tensor_session import TensorSession

# The float64 truth is computed for few frames at a time, so that it hardly shows beside the memory of what it judges.
_EXACT_FRAMES = 4


class LlamaVidSession(TensorSession):
    """Text queries and compression of every chunk, for all questions at once; then the language model on each one's tokens."""

    def __init__(self, model: LlamaVid, prompts: Questions, path: str, expected: int | None) -> None:
        self._model, self._prompts, self._expected = model, prompts, expected
        self._ops: Ops = "longreel" if path == OURS else "reference"
        self._ids, self._mask = prompts.ids.to(model.device), prompts.mask.to(model.device)
        self._valid = model.adapter.query_mask(self._mask)
        self._exact = copy.deepcopy(model.adapter).double() if path == EXACT else None
        positions = model.preset.language.positions
        if prompts.longest >= positions:
            raise ValueError(
                f"question and answer take {prompts.longest} of the language model's {positions} positions"
            )
        self._tokens = TokenBuffer(positions - prompts.longest)

    def consume(self, chunk: Chunk, clock: Clock) -> None:
        if self._exact is not None:
            self._consume_exactly(chunk.frames)
            return
        self.take(self.part(chunk, clock), clock)

    def part(self, chunk: Chunk, clock: Clock) -> Encoded:
        """Tokens [P, frames * (1 + n), H]."""
        frames = chunk.frames
        with clock("query"):
            queries = self._model.query(self._ids, frames, self._mask, ops=self._ops)
        with clock("compress"):
            tokens = self._model.compress(queries, frames, mask=self._valid, ops=self._ops)
        if self._ops == OURS:
            self.backend = self.backend or _backend(self._model, queries, frames)
        return Encoded(len(frames), (tokens,))

    def take(self, part: Encoded, clock: Clock) -> None:
        (tokens,) = part.tensors
        assert tokens is not None
        with clock("compress"):
            self._tokens.add(tokens, part.frames, self._expected)

    def _consume_exactly(self, frames: Tensor) -> None:
        assert self._exact is not None
        for few in torch.split(frames.double(), _EXACT_FRAMES):
            queries = self._exact.query(self._ids, few, self._mask, ops="reference")
            tokens = self._exact.compress(queries, few, mask=self._valid, ops="reference")
            self._tokens.add(tokens, len(few), self._expected)

    def gather(self) -> Tensor:
        return self._tokens.whole()

    def prepare(self, index: int, clock: Clock) -> None:
        if self._exact is not None and index == 0:
            self._model = copy.deepcopy(self._model).double()

    def answer(self, index: int, on_first: Callable[[], None]) -> Answer:
        visual, asked = self.cached[index], self._prompts
        before, after = (ids.to(visual.device) for ids in asked.prompts[index])
        return Answer(*self._model.answer(visual, before, after, length=asked.length, stop=asked.stop, first=on_first))


class TokenBuffer:
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
