"""Choosing an answer, id by id."""

from collections.abc import Callable

import torch
from torch import Tensor


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
