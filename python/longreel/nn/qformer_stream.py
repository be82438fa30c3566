"""A Q-Former over features that come in parts, as often as its layers read them, and never stand in memory together."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from longreel.nn.qformer import QFormer
from longreel.nn.qformer_parts import Attention


class FeaturePart(NamedTuple):
    """Some of the features [1, S, C], and [T, C] that is added to those of each frame, S / T of them; None: nothing is."""

    features: Tensor
    frame_table: Tensor | None = None


@torch.no_grad()
def read_in_parts(qformer: QFormer, query_tokens: Tensor, parts: Callable[[], Iterable[FeaturePart]]) -> Tensor:
    """What ``qformer(query_tokens, features)`` gives for all parts, one behind the other: an online softmax over the parts.

    Args:
        query_tokens: [M, E]. parts: called once for every layer that reads; what it gives is let go at once.

    Returns:
        [1, M, E]; without gradients.

    Raises:
        ValueError: there is no part.
    """
    rows = qformer.embeddings(query_tokens[None])
    for layer in qformer.layers:
        rows = _self_attend(layer.attention, rows)
        if layer.crossattention is not None:
            read = _attend(layer.crossattention, rows, parts())
            rows = layer.crossattention.output(read, rows)
        rows = layer.of_queries(rows)
    return rows


def _self_attend(attention: Attention, rows: Tensor) -> Tensor:
    inner = attention.inner
    query, key, value = (inner.split(project(rows)) for project in (inner.query, inner.key, inner.value))
    out: Tensor = attention.output(inner.attend(query, key, value, None), rows)
    return out


def _attend(attention: Attention, rows: Tensor, parts: Iterable[FeaturePart]) -> Tensor:
    """rows [1, M, E] -> [1, M, E], before the output projection; sums in float32 (float64 of that)."""
    inner = attention.inner
    query, wide = inner.query(rows), torch.promote_types(rows.dtype, torch.float32)
    total: tuple[Tensor, Tensor] | None = None
    for features, table in parts:
        if table is not None:
            features = (features.unflatten(1, (len(table), -1)) + table[:, None]).flatten(1, 2)
        key, value = (inner.split(project(features)) for project in (inner.key, inner.value))
        # [1, H, M, S], as wide as float32 at least: sharp rows need it
        scores = inner.split(query).to(wide) @ key.mT.to(wide) * key.shape[-1] ** -0.5
        # [1, M, H, D] and [1, M, H, 1]
        out = (scores.softmax(-1) @ value.to(wide)).transpose(1, 2)
        lse = scores.logsumexp(-1).transpose(1, 2)[..., None]
        total = (out, lse) if total is None else _merged(*total, out, lse)
    if total is None:
        raise ValueError("there is no part of the features to read")
    return total[0].flatten(2).to(rows.dtype)


def _merged(first: Tensor, first_lse: Tensor, second: Tensor, second_lse: Tensor) -> tuple[Tensor, Tensor]:
    lse = torch.logaddexp(first_lse, second_lse)
    return first * (first_lse - lse).exp() + second * (second_lse - lse).exp(), lse
