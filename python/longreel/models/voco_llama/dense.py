"""The reference path: every row in one forward pass under a dense mask, as released; for inputs whose mask fits."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from longreel._transformers import with_cache
from longreel.layout import VideoLayout
from longreel.models.generation import greedy, unheard
from longreel.models.prompts import Prompts
from longreel.models.voco_llama.model import VoCoLlama
from longreel.models.voco_llama.tokens import IMAGE

# A dense mask may take so many bytes in the model's dtype; beside it stand its booleans, all keys and values, and float64's.
MASK_BYTES = 1 << 29
_BLOCK_ROWS = 1024


def mask_rows(model: VoCoLlama, questions: Prompts, frames: int) -> int:
    """Rows of the dense mask over `frames` frames and the longest question with its answer."""
    return frames * model.decoder.rule.frame + questions.longest


def mask_bytes(model: VoCoLlama, questions: Prompts, frames: int) -> int:
    """Bytes of the dense mask over `frames` frames and the longest question."""
    return mask_rows(model, questions, frames) ** 2 * _element(model)


def frames_that_fit(model: VoCoLlama, questions: Prompts) -> int:
    """The most frames whose dense mask takes at most `MASK_BYTES`."""
    one = model.decoder.rule.frame
    return max(0, (math.isqrt(MASK_BYTES // _element(model)) - questions.longest) // one)


def check(model: VoCoLlama, questions: Prompts, frames: int | None) -> None:
    """MemoryError where the mask over `frames` would not fit, saying what does."""
    fit = frames_that_fit(model, questions)
    if frames is None or frames > fit:
        said = f"the reference path's dense mask may take {MASK_BYTES / 2**30:.1f} GiB, which {fit:,} frames do"
        if frames is not None:
            said += f"; {frames:,} frames need {mask_bytes(model, questions, frames) / 2**30:,.1f} GiB"
        raise MemoryError(said)


class Dense:
    """One question on all frames: `prefill` reads everything, `answer` goes on from there, with all keys and values cached."""

    def __init__(self, model: VoCoLlama, features: Tensor, before: Tensor, after: Tensor) -> None:
        self._model, self._after = model, len(after)
        rule = model.decoder.rule
        ids = [*before.tolist(), *[IMAGE] * len(features), *after.tolist()]
        # [1, S]
        tokens = rule.insert(ids, ids)[0][None].to(features.device)
        self._layout = rule.layout(tokens, torch.ones_like(tokens))
        self._positions = rule.positions(self._layout).to(features.device)
        self._embeds = model.decoder.embed(tokens, model.projector(features))
        self._cache: Any = DynamicCache(config=model.language.config)

    def prefill(self) -> Tensor:
        """Logits after every id of the question [T, V]."""
        return self._forward(inputs_embeds=self._embeds, position_ids=self._positions, logits_to_keep=self._after)

    def answer(self, logits: Tensor, *, length: int, stop: int | None, first: Callable[[], None] = unheard) -> Tensor:
        """Ids int64 [at most length], greedily, behind the prefill's logits; `first` is called once there is one."""

        def step(chosen: Tensor) -> Tensor:
            self._layout, self._positions = self._layout.extend(1), self._positions[:, -1:] + 1
            return self._forward(input_ids=chosen, position_ids=self._positions)[-1]

        return greedy(step, logits[-1], length=length, stop=stop, first=first)

    def cached(self) -> Tensor:
        """Keys and values of the rows that the question attends to of the frames [layers, 2, Hkv, rows, D]."""
        first = self._embeds.shape[1] - self._after
        visible = torch.from_numpy(self._layout.rows(first, first + 1).dense_mask()[0, 0, :first])
        rows = visible.nonzero().flatten().to(self._embeds.device)
        return torch.stack([torch.stack([one.keys[0], one.values[0]])[:, :, rows] for one in self._cache.layers])

    def _forward(self, **inputs: Any) -> Tensor:
        language, end = self._model.language, self._layout.length
        rows = inputs["position_ids"].shape[1]
        mask = additive(self._layout, end - rows, self._embeds.dtype, self._embeds.device)
        with _attention(language, "sdpa"):
            logits: Tensor = language(attention_mask=mask, **with_cache(self._cache), **inputs).logits[0]
        return logits


def additive(layout: VideoLayout, first: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Added to the scores of rows `first` .. of a layout [1, 1, rows, S]: 0 where a key is visible, else the least number."""
    end = layout.length
    mask = torch.full((1, 1, end - first, end), torch.finfo(dtype).min, dtype=dtype, device=device)
    for a in range(first, end, _BLOCK_ROWS):
        b = min(a + _BLOCK_ROWS, end)
        visible = torch.from_numpy(layout.rows(a, b).dense_mask()).to(device)
        mask[0, 0, a - first : b - first, :b].masked_fill_(visible[0], 0)
    return mask


@contextmanager
def _attention(language: PreTrainedModel, name: str) -> Iterator[None]:
    own = language.config._attn_implementation
    language.set_attn_implementation(name)
    try:
        yield
    finally:
        language.set_attn_implementation(own)


def _element(model: VoCoLlama) -> int:
    return torch.finfo(model.dtype).bits // 8
