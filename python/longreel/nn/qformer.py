"""The Q-Former of BLIP-2, InstructBLIP, LLaMA-VID and Video-LLaMA, for many samples at once."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from longreel.nn.linear import changed
from longreel.nn.qformer_keys import QFormerKeys, make_keys
from longreel.nn.qformer_parts import Attention, Embeddings, Encoder, Layer, QFormerConfig, initialise

# Few samples at a time keep the layers' activations in cache on a CPU; a GPU wants them all.
_CPU_SAMPLES = 16


class QFormerOutput(NamedTuple):
    """Rows of the last layer: queries [B, M, E], and text [B, T, E] where it was asked for."""

    queries: Tensor
    text: Tensor | None


class QFormer(nn.Module):
    """Learned queries, and text where there is some, read features: BERT layers with cross-attention in every k-th.

    BLIP-2 (arXiv 2301.12597), section 3.1. Post-norm layers; queries and text share the self-attention and have feed-forwards of
    their own; only queries cross-attend. Parameters have the names of the released checkpoints below ``bert.``.

    What does not depend on the sample is computed once: with queries and text of one sample for all, that is the first layer up
    to its cross-attention, the whole text half of it, and the text's projections of the second. The projections of keys and
    values are absorbed into the queries (`longreel.qformer_attention`) or called, whichever takes fewer FLOPs. Text rows of the
    last layer are computed only where they are asked for.

    It computes in the dtype of its weights; inside torch.autocast too where no gradient is wanted, so that nothing is cast a
    call. Attention dropout is computed (on projected keys) in training.

    Args:
        config: every size. backend: of `longreel.qformer_attention`; None chooses.
    """

    def __init__(self, config: QFormerConfig, *, backend: str | None = None) -> None:
        super().__init__()
        self.config, self.backend = config, backend
        self.embeddings, self.encoder = Embeddings(config), Encoder(config)
        self.apply(lambda module: initialise(module, config.initializer_range))

    @property
    def layers(self) -> list[Layer]:
        return list(self.encoder.layer)  # type: ignore[arg-type]  # a ModuleList of what Encoder puts in

    def read(
        self,
        features: Tensor,
        feature_mask: Tensor | None = None,
        *,
        frame_table: Tensor | None = None,
        frame_size: int | None = None,
        queries: int = 32,
        questions: int = 1,
    ) -> QFormerKeys:
        """Features ready to be read by several calls: keys and values are made here where that takes fewer FLOPs.

        Args:
            features, feature_mask, frame_table, frame_size: as in `forward`. queries: M. questions: the calls to come.
        """
        attentions = [layer.crossattention for layer in self.layers if layer.crossattention is not None]
        _check_features(features, feature_mask, self.config.encoder_hidden_size)
        mask = None if feature_mask is None else feature_mask != 0
        return make_keys(attentions, features, mask, frame_table, frame_size, queries * questions)

    def forward(
        self,
        query_tokens: Tensor,
        features: Tensor | QFormerKeys,
        feature_mask: Tensor | None = None,
        *,
        input_ids: Tensor | None = None,
        text_embeds: Tensor | None = None,
        text_mask: Tensor | None = None,
        frame_table: Tensor | None = None,
        frame_size: int | None = None,
        return_text: bool = False,
    ) -> QFormerOutput:
        """Rows of the last layer.

        Args:
            query_tokens: ``[M, E]`` or ``[1, M, E]``, the same for all samples, or ``[B, M, E]``.
            features: ``[B, S, C]``, or what `read` made of them.
            feature_mask: ``[B, S]``, nonzero for a feature that is read; None: all are.
            input_ids: int64 ``[B, T]``, or ``[1, T]`` for all samples. text_embeds: embedded words ``[B|1, T, E]`` instead.
            text_mask: ``[B|1, T]``, nonzero for a real token; None: all are.
            frame_table: ``[T, C]``, added to the features of each frame, of `frame_size` features each (S / T).
            return_text: also return the text's rows; those of padding mean nothing.

        Raises:
            ValueError, TypeError: shapes that do not fit, or text where the Q-Former has none.
        """
        device = query_tokens.device.type
        given = _Given(query_tokens, features, feature_mask, input_ids, text_embeds, text_mask, frame_table)
        if torch.is_grad_enabled() or not torch.is_autocast_enabled(device):
            return self._forward(given, frame_size, return_text)
        dtype = self.embeddings.LayerNorm.weight.dtype
        cast: list[Any] = [t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t for t in given]
        with torch.autocast(device, enabled=False):
            return self._forward(_Given(*cast), frame_size, return_text)

    def _forward(self, given: "_Given", frame_size: int | None, return_text: bool) -> QFormerOutput:
        self._check_hooks()
        tokens, keys, text_mask = given.query_tokens, given.features, given.text_mask
        rows = _once(tokens[None] if tokens.dim() == 2 else tokens)
        if rows.dim() != 3 or rows.shape[-1] != self.config.hidden_size:
            width = self.config.hidden_size
            raise ValueError(f"query_tokens must be [M, {width}] or [B, M, {width}], given {tuple(tokens.shape)}")
        if not isinstance(keys, QFormerKeys):
            table = given.frame_table
            keys = self.read(keys, given.feature_mask, frame_table=table, frame_size=frame_size, queries=rows.shape[1])
        elif given.feature_mask is not None or given.frame_table is not None or frame_size is not None:
            raise ValueError("feature_mask, frame_table and frame_size are given to `read`, whose result features is")
        samples = len(keys)
        text = self._text(given.input_ids, given.text_embeds, text_mask)
        mask = None if text is None or text_mask is None else (_once(text_mask) != 0)
        for name, tensor in (("query_tokens", rows), ("text", text), ("text_mask", mask)):
            if tensor is not None and len(tensor) not in (1, samples):
                raise ValueError(
                    f"{name} has {len(tensor)} samples; allowed are 1 and {samples}, those of the features"
                )
        if self._draws():
            rows = rows.expand(samples, -1, -1)
            text = None if text is None else text.expand(samples, -1, -1)
        state = _State(self.embeddings(rows), None if text is None else self.embeddings(text), mask)
        return self._encode(keys, state, return_text and text is not None)

    def _text(self, ids: Tensor | None, embedded: Tensor | None, mask: Tensor | None) -> Tensor | None:
        if ids is None and embedded is None:
            if mask is not None:
                raise ValueError("text_mask is given and there is neither input_ids nor text_embeds")
            return None
        if not self.config.text:
            raise ValueError("this Q-Former takes no text (config.text is False)")
        if ids is not None and embedded is not None:
            raise ValueError("input_ids and text_embeds are both given; allowed: one of them")
        given = ids if embedded is None else embedded
        assert given is not None
        if given.dim() != (2 if embedded is None else 3):
            raise ValueError(f"text must be ids [B, T] or embeddings [B, T, E], given {tuple(given.shape)}")
        if given.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"text has {given.shape[1]} tokens, positions end at {self.config.max_position_embeddings}"
            )
        if mask is not None and mask.shape[1:] != given.shape[1:2]:
            raise ValueError(f"text_mask must be [B, {given.shape[1]}], given {tuple(mask.shape)}")
        if given.shape[1] == 0:
            return None
        return self.embeddings.text(None if ids is None else _once(ids), None if embedded is None else _once(embedded))

    def _check_hooks(self) -> None:
        """What only holds parts is never called: a hook on it would not act."""
        held: list[tuple[str, nn.Module | None]] = [("encoder", self.encoder)]
        for index, layer in enumerate(self.layers):
            attentions = (("attention", layer.attention), ("crossattention", layer.crossattention))
            held.append((f"encoder.layer.{index}", layer))
            held += [(f"encoder.layer.{index}.{name}", part) for name, part in attentions]
            held += [
                (f"encoder.layer.{index}.{name}.self", part.inner) for name, part in attentions if part is not None
            ]
        for name, module in held:
            if module is not None and changed(module):
                raise ValueError(f"{name} has a hook or a forward of its own and is not called; hook the modules in it")

    def _draws(self) -> bool:
        """Whether samples that are given the same differ."""
        rates = (self.config.hidden_dropout_prob, self.config.attention_probs_dropout_prob)
        return self.training and any(rate > 0 for rate in rates)

    def _encode(self, keys: QFormerKeys, state: "_State", with_text: bool) -> QFormerOutput:
        # What is the same for all samples comes before they are cut into parts.
        layer, alone = self.layers[0], len(self.layers) == 1
        rows, text, mask = attend(layer.attention, state, rows_only=alone and not with_text)
        start = _State(rows, None if text is None else layer.of_text(text), mask)
        samples = len(keys)
        part = _CPU_SAMPLES if keys.features.device.type == "cpu" else max(samples, 1)
        outputs = [
            self._samples(keys.part(begin, begin + part), start.part(begin, begin + part), with_text)
            for begin in range(0, max(samples, 1), part)
        ]
        queries = [rows for rows, _, _ in outputs]
        texts = [text for _, text, _ in outputs if text is not None and with_text]
        return QFormerOutput(_joined(queries), _joined(texts).expand(samples, -1, -1) if texts else None)

    def _samples(self, keys: QFormerKeys, state: "_State", with_text: bool) -> "_State":
        """From the first layer's cross-attention to the end, but for its text half."""
        reads, last = 0, self.layers[-1]
        for index, layer in enumerate(self.layers):
            if index > 0:
                state = attend(layer.attention, state, rows_only=layer is last and not with_text)
            rows, text, mask = state
            cross: Attention | None = layer.crossattention
            if cross is not None:
                rows = cross.output(keys.attend(reads, cross, rows, self.backend), rows)
                reads += 1
            if index > 0 and text is not None:
                text = layer.of_text(text)
            state = _State(layer.of_queries(rows), text, mask)
        return state


class _Given(NamedTuple):
    """The tensors of a call."""

    query_tokens: Tensor
    features: Tensor | QFormerKeys
    feature_mask: Tensor | None
    input_ids: Tensor | None
    text_embeds: Tensor | None
    text_mask: Tensor | None
    frame_table: Tensor | None


class _State(NamedTuple):
    """Queries [B|1, M, E], text [B|1, T, E], and which of the text is real [B|1, T]."""

    rows: Tensor
    text: Tensor | None
    mask: Tensor | None

    def part(self, begin: int, end: int) -> "_State":
        cut = [t if t is None or len(t) == 1 else t[begin:end] for t in self]
        assert cut[0] is not None
        return _State(cut[0], cut[1], cut[2])


def attend(attention: Attention, state: _State, rows_only: bool) -> _State:
    """Self-attention over queries and text, output projection, residual and norm included.

    What is the same for all samples (of one sample here) is projected once. rows_only: the text's rows are left out.
    """
    inner, (rows, text, mask) = attention.inner, state
    if text is None:
        query, key, value = (inner.split(project(rows)) for project in (inner.query, inner.key, inner.value))
        return _State(attention.output(inner.attend(query, key, value, None), rows), None, mask)
    count, samples = rows.shape[1], max(len(rows), len(text), 1 if mask is None else len(mask))
    rows, text = rows.expand(_batch(rows, samples), -1, -1), text.expand(_batch(text, samples), -1, -1)

    def joint(of_rows: Tensor, of_text: Tensor) -> Tensor:
        return torch.cat([of_rows.expand(samples, -1, -1), of_text.expand(samples, -1, -1)], 1)

    key, value = (inner.split(joint(project(rows), project(text))) for project in (inner.key, inner.value))
    query = inner.query(rows).expand(samples, -1, -1) if rows_only else joint(inner.query(rows), inner.query(text))
    seen = None
    if mask is not None:
        seen = torch.cat([mask.new_ones(len(mask), count), mask], 1)[:, None, None]
    residual = rows if rows_only else joint(rows, text)
    out = attention.output(inner.attend(inner.split(query), key, value, seen), residual)
    return _State(out[:, :count], None if rows_only else out[:, count:], mask)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 or len(parts[0]) == 1 else torch.cat(parts)


def _batch(tensor: Tensor, samples: int) -> int:
    return len(tensor) if len(tensor) in (1, samples) else samples


def _once(tensor: Tensor) -> Tensor:
    """[1, ...] of samples that are one tensor expanded."""
    return tensor[:1] if len(tensor) > 1 and tensor.stride(0) == 0 else tensor


def _check_features(features: Tensor, mask: Tensor | None, width: int) -> None:
    if features.dim() != 3 or features.shape[-1] != width:
        raise ValueError(f"features must be [B, S, {width}], given {tuple(features.shape)}")
    if mask is not None and mask.shape != features.shape[:2]:
        raise ValueError(f"feature_mask must be {list(features.shape[:2])}, given {tuple(mask.shape)}")
