"""The reference path of a Q-Former: transformers' own modules on the weights of `longreel.nn.QFormer`."""

import re
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import Blip2QFormerConfig, Blip2QFormerModel, InstructBlipQFormerConfig, InstructBlipQFormerModel

from longreel.nn import QFormer, QFormerConfig, QFormerOutput
from longreel.nn.linear import changed

_SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "encoder_hidden_size",
    "cross_attention_frequency", "layer_norm_eps", "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob",
)  # fmt: skip
_OF_TEXT = ("vocab_size", "max_position_embeddings")


class PublishedQFormer(nn.Module):
    """Called as `qformer` is: InstructBLIP's Q-Former where it takes text, else BLIP-2's, in the released order of operations.

    Every sample goes through all of it, every layer projects its own keys, and positions are added to the features first.
    No weight is copied; gradients reach those of `qformer`.
    """

    def __init__(self, qformer: QFormer) -> None:
        super().__init__()
        self.qformer = qformer

    @property
    def model(self) -> nn.Module:
        """transformers' module, which has no weights of its own."""
        return _without_weights(self.qformer.config)

    def forward(
        self,
        query_tokens: Tensor,
        features: Tensor,
        feature_mask: Tensor | None = None,
        *,
        input_ids: Tensor | None = None,
        text_mask: Tensor | None = None,
        frame_table: Tensor | None = None,
        return_text: bool = False,
    ) -> QFormerOutput:
        """Shapes as in `QFormer.forward`.

        Raises:
            ValueError: hooks, adapters or other weights stand in `qformer`, which this path would go past.
        """
        weights = self._weights()
        if frame_table is not None:
            features = (features.unflatten(1, (len(frame_table), -1)) + frame_table[:, None]).flatten(1, 2)
        rows = query_tokens.expand(len(features), -1, -1)
        given: dict[str, Any] = {
            "query_embeds": rows, "encoder_hidden_states": features, "encoder_attention_mask": feature_mask,
        }  # fmt: skip
        if input_ids is not None:
            ids = given["input_ids"] = input_ids.expand(len(features), -1)
            if text_mask is not None:
                real = (text_mask != 0).long().expand(len(ids), -1)
                given["attention_mask"] = torch.cat([real.new_ones(rows.shape[:2]), real], 1)
        elif self.qformer.config.text:
            given["input_ids"] = None
        hidden = functional_call(self.model.train(self.training), weights, (), given, strict=True).last_hidden_state
        text = hidden[:, rows.shape[1] :] if return_text and input_ids is not None else None
        return QFormerOutput(hidden[:, : rows.shape[1]], text)

    def _weights(self) -> dict[str, Tensor]:
        """By transformers' names."""
        own, model = dict(self.qformer.named_parameters()), self.model
        names = {name: released_qformer_name(name) for name, _ in model.named_parameters()}
        if own.keys() != {*names.values()} or any(changed(module) for module in self.qformer.modules()):
            raise ValueError(
                "the published Q-Former takes plain weights; this one has hooks, adapters or other parameters"
            )
        device, size = next(iter(own.values())).device, self.qformer.config.max_position_embeddings
        positions = {name: torch.arange(size, device=device)[None] for name, _ in model.named_buffers()}
        return {name: own[theirs] for name, theirs in names.items()} | positions


def released_qformer_name(name: str) -> str:
    """The released name, below ``bert.``, of a parameter of transformers' Q-Formers; one that is released stays."""
    name = re.sub(r"^(embeddings\.)?layernorm\.", "embeddings.LayerNorm.", name)
    return name.replace("attention.attention.", "attention.self.")


@cache
def _without_weights(config: QFormerConfig) -> nn.Module:
    sizes = {name: getattr(config, name) for name in (*_SIZES, *_OF_TEXT * config.text)}
    with torch.device("meta"):
        if config.text:
            return InstructBlipQFormerModel(InstructBlipQFormerConfig(**sizes))
        return Blip2QFormerModel(Blip2QFormerConfig(**sizes))
