"""The Q-Former of BLIP-2, InstructBLIP, LLaMA-VID and Video-LLaMA, for many samples at once."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from longreel.nn.linear import changed
from longreel.nn.qformer_joint import State, attend
from longreel.nn.qformer_keys import QFormerKeys, make_keys
from longreel.nn.qformer_parts import Attention, Embeddings, Encoder, Layer, QFormerConfig, initialise

# Few samples at a time keep the layers' activations in cache on a CPU; a GPU wants them all.
_CPU_SAMPLES = 16


class QFormerOutput(NamedTuple):
    """Rows of the last layer: queries [B, M, E], and text [B, T, E] where it was asked for."""

    queries: Tensor
    text: Tensor | None


class QFormerQuestion(NamedTuple):
    """Queries [B|1, M, E] and text [B|1, T, E] before their norm, as `QFormer.ask` made them ready; start: after what no feature
    changes, None where dropout is drawn."""

    rows: Tensor
    text: Tensor | None
    mask: Tensor | None
    with_text: bool
    start: State | None


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
        dtype = self._own_dtype(device := features.device.type)
        with _computing_in(dtype, device):
            features, table = _to(dtype, features), None if frame_table is None else _to(dtype, frame_table)
            return make_keys(attentions, features, mask, table, frame_size, queries * questions)

    def forward(
        self,
        query_tokens: Tensor | QFormerQuestion,
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
            query_tokens: ``[M, E]`` or ``[1, M, E]``, the same for all samples, or ``[B, M, E]``; or what `ask` made of them.
            features: ``[B, S, C]``, or what `read` made of them.
            feature_mask: ``[B, S]``, nonzero for a feature that is read; None: all are.
            input_ids: int64 ``[B, T]``, or ``[1, T]`` for all samples. text_embeds: embedded words ``[B|1, T, E]`` instead.
            text_mask: ``[B|1, T]``, nonzero for a real token; None: all are.
            frame_table: ``[T, C]``, added to the features of each frame, of `frame_size` features each (S / T).
            return_text: also return the text's rows; those of padding mean nothing.

        Raises:
            ValueError, TypeError: shapes that do not fit, or text where the Q-Former has none.
        """
        if not isinstance(query_tokens, QFormerQuestion):
            query_tokens = self.ask(
                query_tokens, input_ids=input_ids, text_embeds=text_embeds, text_mask=text_mask, return_text=return_text
            )
        elif return_text or any(given is not None for given in (input_ids, text_embeds, text_mask)):
            raise ValueError("text and return_text are given to `ask`, whose result query_tokens is")
        if not isinstance(features, QFormerKeys):
            count = query_tokens.rows.shape[1]
            features = self.read(features, feature_mask, frame_table=frame_table, frame_size=frame_size, queries=count)
        elif feature_mask is not None or frame_table is not None or frame_size is not None:
            raise ValueError("feature_mask, frame_table and frame_size are given to `read`, whose result features is")
        device = query_tokens.rows.device.type
        with _computing_in(self._own_dtype(device), device):
            return self._encode(features, query_tokens)

    def ask(
        self,
        query_tokens: Tensor,
        *,
        input_ids: Tensor | None = None,
        text_embeds: Tensor | None = None,
        text_mask: Tensor | None = None,
        return_text: bool = False,
    ) -> QFormerQuestion:
        """Queries and text ready to meet the features of several calls: what no feature changes is computed here.

        Args:
            query_tokens, input_ids, text_embeds, text_mask, return_text: as in `forward`.
        """
        self.check_hooks()
        dtype = self._own_dtype(device := query_tokens.device.type)
        with _computing_in(dtype, device):
            tokens = _to(dtype, query_tokens)
            rows = _once(tokens[None] if tokens.dim() == 2 else tokens)
            if rows.dim() != 3 or rows.shape[-1] != self.config.hidden_size:
                width, given = self.config.hidden_size, tuple(tokens.shape)
                raise ValueError(f"query_tokens must be [M, {width}] or [B, M, {width}], given {given}")
            text = self._text(input_ids, None if text_embeds is None else _to(dtype, text_embeds), text_mask)
            mask = None if text is None or text_mask is None else (_once(text_mask) != 0)
            counts = {len(tensor) for tensor in (rows, text, mask) if tensor is not None}
            if len(counts - {1}) > 1:
                raise ValueError(
                    f"query_tokens, text and text_mask have {sorted(counts)} samples; allowed are 1 and one other"
                )
            with_text = return_text and text is not None
            start = None if self.draws() else self._start(rows, text, mask, with_text)
            return QFormerQuestion(rows, text, mask, with_text, start)

    def _own_dtype(self, device: str) -> torch.dtype | None:
        """What all is computed in inside an autocast where no gradient is wanted; None elsewhere."""
        casts = torch.is_autocast_enabled(device) and not torch.is_grad_enabled()
        return self.embeddings.LayerNorm.weight.dtype if casts else None

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

    def check_hooks(self) -> None:
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

    def draws(self) -> bool:
        """Whether samples that are given the same differ."""
        rates = (self.config.hidden_dropout_prob, self.config.attention_probs_dropout_prob)
        return self.training and any(rate > 0 for rate in rates)

    def _start(self, rows: Tensor, text: Tensor | None, mask: Tensor | None, with_text: bool) -> State:
        """From the embeddings to the first layer's cross-attention, of the text all of that layer."""
        layer, alone = self.layers[0], len(self.layers) == 1
        state = State(self.embeddings(rows), None if text is None else self.embeddings(text), mask)
        rows, text, mask = attend(layer.attention, state, rows_only=alone and not with_text)
        return State(rows, None if text is None else layer.of_text(text), mask)

    def _encode(self, keys: QFormerKeys, question: QFormerQuestion) -> QFormerOutput:
        rows, text, mask, with_text, start = question
        samples = len(keys)
        for name, tensor in (("query_tokens", rows), ("text", text), ("text_mask", mask)):
            if tensor is not None and len(tensor) not in (1, samples):
                raise ValueError(
                    f"{name} has {len(tensor)} samples; allowed are 1 and {samples}, those of the features"
                )
        if start is None:
            # Every sample draws its own.
            rows = rows.expand(samples, -1, -1)
            start = self._start(rows, None if text is None else text.expand(samples, -1, -1), mask, with_text)
        part = _CPU_SAMPLES if keys.features.device.type == "cpu" else max(samples, 1)
        outputs = [
            self._samples(keys.part(begin, begin + part), start.part(begin, begin + part), with_text)
            for begin in range(0, max(samples, 1), part)
        ]
        queries = [rows for rows, _, _ in outputs]
        texts = [text for _, text, _ in outputs if text is not None and with_text]
        return QFormerOutput(_joined(queries), _joined(texts).expand(samples, -1, -1) if texts else None)

    def _samples(self, keys: QFormerKeys, state: State, with_text: bool) -> State:
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
            state = State(layer.of_queries(rows), text, mask)
        return state


def _computing_in(dtype: torch.dtype | None, device: str) -> AbstractContextManager[object]:
    return nullcontext() if dtype is None else torch.autocast(device, enabled=False)


def _to(dtype: torch.dtype | None, tensor: Tensor) -> Tensor:
    return tensor if dtype is None else tensor.to(dtype)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 or len(parts[0]) == 1 else torch.cat(parts)


def _once(tensor: Tensor) -> Tensor:
    """[1, ...] of samples that are one tensor expanded."""
    return tensor[:1] if len(tensor) > 1 and tensor.stride(0) == 0 else tensor


def _check_features(features: Tensor, mask: Tensor | None, width: int) -> None:
    if features.dim() != 3 or features.shape[-1] != width:
        raise ValueError(f"features must be [B, S, {width}], given {tuple(features.shape)}")
    if mask is not None and mask.shape != features.shape[:2]:
        raise ValueError(f"feature_mask must be {list(features.shape[:2])}, given {tuple(mask.shape)}")
