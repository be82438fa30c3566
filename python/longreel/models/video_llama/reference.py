"""The reference path: the Q-Formers of `Branches` by transformers, in the released order of operations."""

import copy

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from longreel.models.video_llama.branches import Branches
from longreel.nn import QFormer, QFormerOutput


def published(adapter: Branches) -> Branches:
    """`adapter` with its own weights, of which nothing is copied, and transformers' Q-Formers; without gradients."""
    twin = copy.copy(adapter)
    twin._modules = dict(adapter._modules)
    for name, module in adapter._modules.items():
        if isinstance(module, nn.ModuleDict):
            qformer = module["bert"]
            assert isinstance(qformer, QFormer)
            twin._modules[name] = nn.ModuleDict({"bert": PublishedQFormer(qformer)})
    return twin


class PublishedQFormer(nn.Module):
    """Called as `longreel.nn.QFormer` is, as far as `Branches` call it; positions are added to every key first."""

    def __init__(self, qformer: QFormer) -> None:
        super().__init__()
        size = qformer.config
        config = Blip2QFormerConfig(
            hidden_size=size.hidden_size,
            num_hidden_layers=size.num_hidden_layers,
            num_attention_heads=size.num_attention_heads,
            intermediate_size=size.intermediate_size,
            encoder_hidden_size=size.encoder_hidden_size,
            cross_attention_frequency=size.cross_attention_frequency,
            layer_norm_eps=size.layer_norm_eps,
            hidden_act=size.hidden_act,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        with torch.device("meta"):
            self.model = Blip2QFormerModel(config)
        theirs = {_name(name): value for name, value in qformer.state_dict().items()}
        self.model.load_state_dict(theirs, assign=True)
        self.model.eval().requires_grad_(False)

    def forward(self, query_tokens: Tensor, features: Tensor, *, frame_table: Tensor | None = None) -> QFormerOutput:
        if frame_table is not None:
            features = (features.unflatten(1, (len(frame_table), -1)) + frame_table[:, None]).flatten(1, 2)
        queries = query_tokens.expand(len(features), -1, -1)
        return QFormerOutput(self.model(query_embeds=queries, encoder_hidden_states=features).last_hidden_state, None)


def _name(name: str) -> str:
    return name.replace("embeddings.LayerNorm.", "layernorm.").replace("attention.self.", "attention.attention.")
