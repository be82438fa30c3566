"""Queries and text on their way through the layers, and the self-attention that they share."""

from typing import NamedTuple

import torch
from torch import Tensor

from longreel.nn.qformer_parts import Attention


class State(NamedTuple):
    """Queries [B|1, M, E], text [B|1, T, E], and which of the text is real [B|1, T]."""

    rows: Tensor
    text: Tensor | None
    mask: Tensor | None

    def part(self, begin: int, end: int) -> "State":
        cut = [t if t is None or len(t) == 1 else t[begin:end] for t in self]
        assert cut[0] is not None
        return State(cut[0], cut[1], cut[2])


def attend(attention: Attention, state: State, rows_only: bool) -> State:
    """Self-attention over queries and text, output projection, residual and norm included.

    What is the same for all samples (of one sample here) is projected once. rows_only: the text's rows are left out.
    """
    inner, (rows, text, mask) = attention.inner, state
    if text is None:
        return State(attention.among(rows), None, mask)
    given = (len(tensor) for tensor in (rows, text, mask) if tensor is not None)
    # there may be none
    count, samples = rows.shape[1], next((number for number in given if number != 1), 1)

    def joint(of_rows: Tensor, of_text: Tensor) -> Tensor:
        return torch.cat([of_rows.expand(samples, -1, -1), of_text.expand(samples, -1, -1)], 1)

    key, value = (inner.split(joint(project(rows), project(text))) for project in (inner.key, inner.value))
    query = inner.query(rows).expand(samples, -1, -1) if rows_only else joint(inner.query(rows), inner.query(text))
    visible = None
    if mask is not None:
        visible = torch.cat([mask.new_ones(len(mask), count), mask], 1)[:, None, None]
    residual = rows if rows_only else joint(rows, text)
    out = attention.output(inner.attend(inner.split(query), key, value, visible), residual)
    return State(out[:, :count], None if rows_only else out[:, count:], mask)
