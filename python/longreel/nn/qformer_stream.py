"""A Q-Former over features that come in parts, as often as its layers read them, and never stand in memory together."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from longreel.nn.qformer import QFormer
from longreel.nn.qformer_keys import absorbs, with_frames
from longreel.nn.qformer_parts import Attention
from longreel.ops._qformer_attention import qformer_attention_of_part


class FeaturePart(NamedTuple):
    """Some of the features [1, S, C], and [T, C] that is added to those of each frame, S / T of them; None: nothing is."""

    features: Tensor
    frame_table: Tensor | None = None


@torch.no_grad()
def read_in_parts(qformer: QFormer, query_tokens: Tensor, parts: Callable[[], Iterable[FeaturePart]]) -> Tensor:
    """What ``qformer(query_tokens, features)`` gives for all parts, one behind the other: an online softmax over the parts.

    Each part is read by `longreel.qformer_attention`, or its keys are projected where that takes fewer FLOPs; the sums are joined
    in order, so that the same parts give the same bits.

    Args:
        query_tokens: [M, E]. parts: called once for every layer that reads; what it gives is let go at once.

    Returns:
        [1, M, E]; without gradients.

    Raises:
        ValueError: there is no feature; a Q-Former in training that draws dropout, or has hooks that would not act.
    """
    qformer.check_hooks()
    if qformer.draws():
        raise ValueError(
            "this Q-Former is in training and draws dropout, which is not drawn for parts; eval() turns it off"
        )
    rows = qformer.embeddings(query_tokens[None])
    for layer in qformer.layers:
        rows = layer.attention.among(rows)
        if layer.crossattention is not None:
            read = _attend(layer.crossattention, rows, parts(), qformer.backend)
            rows = layer.crossattention.output(read, rows)
        rows = layer.of_queries(rows)
    return rows


def _attend(attention: Attention, rows: Tensor, parts: Iterable[FeaturePart], backend: str | None) -> Tensor:
    """rows [1, M, E] -> [1, M, E], before the output projection; sums in float32 (float64 of that)."""
    query = attention.inner.query(rows)
    total: tuple[Tensor, Tensor] | None = None
    for part in parts:
        if part.features.shape[1]:
            out, lse = _read(attention, query, part, backend)
            total = (out, lse) if total is None else _joined(*total, out, lse)
    if total is None:
        raise ValueError("there is no part of the features to read")
    return total[0].transpose(1, 2).flatten(2).to(rows.dtype)


def _read(attention: Attention, query: Tensor, part: FeaturePart, backend: str | None) -> tuple[Tensor, Tensor]:
    """query [1, M, E] -> out [1, H, M, D] and lse [1, H, M, 1] of one part."""
    inner, (features, table) = attention.inner, part
    if absorbs(attention, features, query.shape[1], first=False):
        out, lse = qformer_attention_of_part(
            query, features, inner.key.weight, inner.value.weight, inner.value.bias, num_heads=inner.heads,
            frame_table=table, backend=backend,
        )  # fmt: skip
        return inner.split(out), lse[..., None]
    with_places = features if table is None else with_frames(features, table, None)
    wide = torch.promote_types(query.dtype, torch.float32)
    key, value = (inner.split(project(with_places)).to(wide) for project in (inner.key, inner.value))
    # [1, H, M, S], as wide as float32 at least: sharp rows need it
    scores = inner.split(query).to(wide) @ key.mT * key.shape[-1] ** -0.5
    return scores.softmax(-1) @ value, scores.logsumexp(-1, keepdim=True)


def _joined(first: Tensor, first_lse: Tensor, second: Tensor, second_lse: Tensor) -> tuple[Tensor, Tensor]:
    lse = torch.logaddexp(first_lse, second_lse)
    return first * (first_lse - lse).exp() + second * (second_lse - lse).exp(), lse
