"""Choosing an answer, id by id."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from longreel._transformers import with_cache
from longreel.cache import BufferedCache

_PREFILL_TOKENS = 256


def unheard() -> None:
    """Nobody waits for the first id."""


def greedy(
    step: Callable[[Tensor], Tensor],
    logits: Tensor,
    *,
    length: int,
    stop: int | None,
    first: Callable[[], None] = unheard,
) -> Tensor:
    """The likeliest ids, int64 [at most length]; `stop` ends them and is not returned.

    logits: [vocabulary], of the first id. step: an id [1, 1] -> the logits [vocabulary] after it. first: called once the first
    id is chosen.
    """
    ids, chosen = list[Tensor](), logits.argmax()
    first()
    while len(ids) < length and (stop is None or chosen.item() != stop):
        ids.append(chosen)
        if len(ids) < length:
            chosen = step(chosen.view(1, 1)).argmax()
    return torch.stack(ids) if ids else chosen.new_empty(0)


def answer_behind(
    language: Any,
    parts: Sequence[Tensor],
    after: Tensor,
    *,
    positions: int,
    length: int,
    stop: int | None = None,
    first: Callable[[], None] = unheard,
) -> tuple[Tensor, Tensor]:
    """Prefill a causal language model of transformers with ids and tokens, then the ids after them, then choose greedily.

    Args:
        parts: in order, int64 [T] ids or [S, H] embeddings. after: int64 [T], at least one.
        positions: that the language model has. length, stop, first: as in `greedy`.

    Returns:
        ids int64 [at most length] and the logits after every id of `after` [T, vocabulary]; the last chose the first id.

    Raises:
        ValueError: more tokens than positions.
    """
    needed = sum(map(len, parts)) + len(after) + length
    if needed > positions:
        raise ValueError(f"{needed} tokens are more than the language model's {positions} positions")
    embed, cache = language.get_input_embeddings(), BufferedCache(language.config, needed)
    for part in parts:
        rows = part if part.is_floating_point() else embed(part)
        # [1, at most so many, H]
        for block in torch.split(rows[None], _PREFILL_TOKENS, 1):
            language.model(inputs_embeds=block, **with_cache(cache))
    logits = language(input_ids=after[None], **with_cache(cache)).logits[0]

    def step(chosen: Tensor) -> Tensor:
        following: Tensor = language(input_ids=chosen, **with_cache(cache)).logits[0, -1]
        return following

    return greedy(step, logits[-1], length=length, stop=stop, first=first), logits
