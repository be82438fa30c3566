"""What the cross-attentions of a Q-Former read: the features as they are, or keys and values projected once for several calls."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from longreel.nn.linear import is_matrix
from longreel.nn.qformer_parts import Attention
from longreel.ops._qformer_attention import absorbed_flops, projected_flops, qformer_attention


@dataclass(frozen=True)
class QFormerKeys:
    """Features [B, S, C] ready to be read; `QFormer.read` makes them.

    projected: keys and values [B, S, E] of a layer; None: its projections are absorbed into the queries.
    """

    features: Tensor
    mask: Tensor | None
    frame_table: Tensor | None
    frame_size: int | None
    projected: tuple[tuple[Tensor, Tensor] | None, ...]

    def __len__(self) -> int:
        return self.features.shape[0]

    def part(self, begin: int, end: int) -> "QFormerKeys":
        """Samples begin .. end - 1."""
        return replace(
            self,
            features=self.features[begin:end],
            mask=None if self.mask is None else self.mask[begin:end],
            projected=tuple(p and (p[0][begin:end], p[1][begin:end]) for p in self.projected),
        )

    def attend(self, index: int, attention: Attention, rows: Tensor, backend: str | None) -> Tensor:
        """rows [B|1, M, E] of the cross-attention number `index` -> [B, M, E], before its output projection."""
        inner, projected = attention.inner, self.projected[index]
        query = inner.query(rows)
        if projected is None:
            return qformer_attention(
                query, self.features, inner.key.weight, inner.value.weight, inner.value.bias, num_heads=inner.heads,
                key_mask=self.mask, frame_table=self.frame_table, frame_size=self.frame_size, backend=backend,
            )  # fmt: skip
        query = query.expand(len(self), -1, -1)
        key, value = (inner.split(t) for t in projected)
        if self.mask is None:
            return inner.attend(inner.split(query), key, value, None)
        mixed = inner.attend(inner.split(query), key, value, self.mask[:, None, None])
        # a sample without a key reads nothing
        return mixed.masked_fill(~self.mask.any(1)[:, None, None], 0)


def make_keys(
    attentions: Sequence[Attention],
    features: Tensor,
    mask: Tensor | None,
    frame_table: Tensor | None,
    frame_size: int | None,
    queries: int,
) -> QFormerKeys:
    """For each attention the form that takes fewer FLOPs with `queries` queries. Projections are called: nothing is made of their
    weights and stored, so nothing goes stale."""
    absorbed = [absorbs(attention, features, queries, index == 0) for index, attention in enumerate(attentions)]
    with_places = features
    if frame_table is not None and not all(absorbed):
        with_places = with_frames(features, frame_table, frame_size)
    projected = tuple(
        None if without else (attention.inner.key(with_places), attention.inner.value(with_places))
        for attention, without in zip(attentions, absorbed, strict=True)
    )
    return QFormerKeys(features, mask, frame_table, frame_size, projected)


def absorbs(attention: Attention, features: Tensor, queries: int, first: bool) -> bool:
    """Whether the projections of keys and values go into the queries; first: these are the same for all samples."""
    inner = attention.inner
    # Dropout acts on the probabilities of every key.
    if (inner.training and inner.dropout > 0) or not (is_matrix(inner.key) and is_matrix(inner.value)):
        return False
    samples, keys, channels = features.shape
    width: int = inner.key.out_features
    plain = projected_flops(samples, queries, keys, channels, width)
    return absorbed_flops(samples, queries, keys, channels, width, inner.heads, first) < plain


def with_frames(features: Tensor, table: Tensor, size: int | None) -> Tensor:
    """features [B, S, C] with table [T, C] added to those of each frame, `size` of them or S / T."""
    keys = features.shape[1]
    if size is None and (len(table) == 0 or keys % len(table)):
        raise ValueError(f"frame_table has {len(table)} frames, which do not divide the {keys} keys evenly")
    each = keys // len(table) if size is None else size
    if each * len(table) != keys:
        raise ValueError(f"frame_table has {len(table)} frames of {each} keys (frame_size), there are {keys} keys")
    return features + table.repeat_interleave(each, 0)
