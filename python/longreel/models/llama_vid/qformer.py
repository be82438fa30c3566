"""The text-guided Q-Former for many frames of one video: what does not depend on the frame is computed once."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

from longreel.models.llama_vid.bert import bert_sizes
from longreel.models.llama_vid.presets import QFormerSize
from longreel.nn.linear import is_matrix, untouched
from longreel.ops._qformer_attention import absorbed_flops, projected_flops, qformer_attention

# Few frames at a time keep the layers' activations in cache on a CPU; a GPU wants them all.
_CPU_FRAMES = 16


def build_qformer(size: QFormerSize, vision_width: int, cross_attention_every: int = 2) -> InstructBlipQFormerModel:
    """The published Q-Former: post-norm as in BERT, with an FFN for the queries and another for the text."""
    config = InstructBlipQFormerConfig(
        **bert_sizes(size), encoder_hidden_size=vision_width, cross_attention_frequency=cross_attention_every
    )
    return InstructBlipQFormerModel(config)


def qformer_frames(
    qformer: InstructBlipQFormerModel, learned: Tensor, questions: list[Tensor], encoded: Tensor
) -> Tensor:
    """The query rows of the last layer, for every question and frame: the same mathematics as `qformer` itself.

    The first layer up to its cross-attention, its whole text half and the text's projections in the second layer do
    not depend on the frame: they are computed once a question. The last layer's text rows are read by nobody and left
    out. A cross-attention is absorbed, `q . (Wk x + bk) = (Wk^T q) . x + const` and the constant cancels in the
    softmax, or its keys and values are projected once for all questions, whichever takes fewer FLOPs.

    A Q-Former that draws dropout, or parts of which have hooks or are not the published ones, is called as it is, on every
    frame; one whose cross-attention has adapters or quantised weights is never absorbed.

    Args:
        learned: [M, E], the learned queries. questions: int64 [T], without padding; a T may be 0.
        encoded: [F, S, C], the frames after their norm. Differentiable in all of them and in the weights.

    Returns:
        [P, F, M, E].
    """
    if not _as_published(qformer) or any(_drops(module) for module in qformer.modules()):
        return published_frames(qformer, learned, questions, encoded)
    layers: list[Any] = list(qformer.encoder.layer)
    prompts = [_prompt(qformer, layers, learned, ids) for ids in questions]
    parts = torch.split(encoded, _CPU_FRAMES if encoded.device.type == "cpu" else max(len(encoded), 1))
    rows = [torch.stack(list(_frames(layers, prompts, part))) for part in parts]
    return torch.cat(rows, 1)


def published_frames(
    qformer: InstructBlipQFormerModel, learned: Tensor, questions: list[Tensor], encoded: Tensor
) -> Tensor:
    """`qformer_frames` by the Q-Former itself: every frame of every question."""
    frames, hidden = len(encoded), []
    for ids in questions:
        states = qformer(
            input_ids=ids.expand(frames, -1),
            query_embeds=learned.expand(frames, -1, -1),
            encoder_hidden_states=encoded,
        ).last_hidden_state
        hidden.append(states[:, : len(learned)])
    return torch.stack(hidden)


def _drops(module: nn.Module) -> bool:
    # An attention's own is a number or a module of its own, by the version of transformers.
    rate = module.p if isinstance(module, nn.Dropout) else getattr(module, "attention_dropout", 0.0)
    return module.training and rate > 0


def _as_published(qformer: InstructBlipQFormerModel) -> bool:
    """Whether every module that `qformer_frames` goes past, to its parts, is the published one and has no hook."""
    passed: list[nn.Module] = [qformer, qformer.encoder]
    layer: Any
    for layer in qformer.encoder.layer:
        attentions = [layer.attention, *([layer.crossattention] if layer.has_cross_attention else [])]
        passed += [layer, *attentions, *(attention.attention for attention in attentions)]
    return all(
        type(module).__module__ == InstructBlipQFormerModel.__module__ and untouched(module) for module in passed
    )


class _Prompt(NamedTuple):
    """One question before it meets a frame."""

    queries: Tensor
    """[M, E] after the first layer's self-attention."""
    text: Tensor
    """[T, E] after the whole first layer."""


def _prompt(qformer: InstructBlipQFormerModel, layers: list[Any], learned: Tensor, ids: Tensor) -> _Prompt:
    embedded = qformer.embeddings(input_ids=ids[None], query_embeds=learned[None])
    attended = _self_attention(layers[0].attention, embedded)[0]
    queries, text = attended.tensor_split([len(learned)])
    return _Prompt(queries, layers[0].feed_forward_chunk(text))


def _frames(layers: list[Any], prompts: list[_Prompt], encoded: Tensor) -> Iterator[Tensor]:
    """[F, M, E] of every question."""
    keys = [_Keys.of(layer, encoded, prompts) if layer.has_cross_attention else None for layer in layers]
    for queries, text in prompts:
        rows = _after_self_attention(layers[0], keys[0], queries.expand(len(encoded), -1, -1))
        for layer, seen in zip(layers[1:], keys[1:], strict=True):
            last = layer is layers[-1]
            attended, attended_text = _joint_attention(layer.attention, rows, text, last)
            rows = _after_self_attention(layer, seen, attended)
            if not last:
                text = layer.feed_forward_chunk(attended_text)
        yield rows


def _after_self_attention(layer: Any, keys: "_Keys | None", rows: Tensor) -> Tensor:
    """[F, M, E]: cross-attention where the layer has one, and the queries' FFN."""
    return layer.feed_forward_chunk_query(rows if keys is None else keys.attend(rows))


def _self_attention(attention: Any, rows: Tensor) -> Tensor:
    """rows [B, R, E] attend to each other; output projection, residual and norm included."""
    inner = attention.attention
    query, key, value = (_heads(inner, project(rows)) for project in (inner.query, inner.key, inner.value))
    mixed = F.scaled_dot_product_attention(query, key, value)
    out: Tensor = attention.output(_merged(mixed), rows)
    return out


def _joint_attention(attention: Any, rows: Tensor, text: Tensor, rows_only: bool) -> tuple[Tensor, Tensor]:
    """rows [F, M, E] and text ([T, E] the same for all frames, or [F, T, E]) attend to both -> the same two, [F, ...].

    The text's projections are computed once where it is the same for all frames. rows_only: the second is empty.
    """
    inner, frames, count = attention.attention, *rows.shape[:2]
    projected = []
    for project in (inner.query, inner.key, inner.value):
        of_text = project(text).expand(frames, *text.shape[-2:])
        projected.append(_heads(inner, torch.cat([project(rows), of_text], 1)))
    query, key, value = projected
    if rows_only:
        query = query[:, :, :count]
    mixed = _merged(F.scaled_dot_product_attention(query, key, value))
    residual = rows if rows_only else torch.cat([rows, text.expand(frames, *text.shape[-2:])], 1)
    out = attention.output(mixed, residual)
    return out[:, :count], out[:, count:]


def _heads(inner: Any, rows: Tensor) -> Tensor:
    """[B, R, E] -> [B, H, R, D]"""
    return rows.unflatten(-1, (inner.num_attention_heads, -1)).transpose(1, 2)


def _merged(heads: Tensor) -> Tensor:
    """[B, H, R, D] -> [B, R, E]"""
    return heads.transpose(1, 2).flatten(2)


class _Keys(NamedTuple):
    """What the queries of a cross-attention look at: the frames as they are (absorbed), or their keys and values."""

    attention: Any
    encoded: Tensor
    projected: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, layer: Any, encoded: Tensor, prompts: list[_Prompt]) -> "_Keys":
        attention = layer.crossattention
        inner = attention.attention
        rows, width = prompts[0].queries.shape
        (frames, seen, vision), heads = encoded.shape, inner.num_attention_heads
        asked = len(prompts) * rows
        plain = projected_flops(frames, asked, seen, vision, width)
        absorbed = absorbed_flops(frames, asked, seen, vision, width, heads, False)
        if absorbed < plain and is_matrix(inner.key) and is_matrix(inner.value):
            return cls(attention, encoded, None)
        return cls(attention, encoded, (_heads(inner, inner.key(encoded)), _heads(inner, inner.value(encoded))))

    def attend(self, rows: Tensor) -> Tensor:
        """rows [F, M, E] -> [F, M, E], output projection, residual and norm included."""
        inner = self.attention.attention
        # Queries that are the same for all frames are projected, and absorbed, once.
        query = inner.query(rows[:1] if len(rows) > 1 and rows.stride(0) == 0 else rows)
        if self.projected is not None:
            every = query.expand(len(rows), -1, -1)
            mixed = _merged(F.scaled_dot_product_attention(_heads(inner, every), *self.projected))
        else:
            key, value = inner.key, inner.value
            mixed = qformer_attention(
                query, self.encoded, key.weight, value.weight, value.bias, num_heads=inner.num_attention_heads
            )
        return self.attention.output(mixed, rows)
