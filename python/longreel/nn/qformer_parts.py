"""The parts of a Q-Former, with the released names of their parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


@dataclass(frozen=True, slots=True)
class QFormerConfig:
    """Sizes of a Q-Former, named as in transformers; by default BLIP-2's.

    text: it has word and position embeddings and a feed-forward of its own for text. cross_attention_frequency: every so many
    layers one reads the features, from the first on; 1: all do.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    encoder_hidden_size: int = 1408
    cross_attention_frequency: int = 2
    text: bool = True
    vocab_size: int = 30523
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by {self.num_attention_heads} heads")
        if self.cross_attention_frequency < 1 or self.num_hidden_layers < 1:
            raise ValueError("cross_attention_frequency and num_hidden_layers must be at least 1")
        if self.hidden_act not in _ACTIVATIONS:
            raise ValueError(f"hidden_act {self.hidden_act!r} is not one of {', '.join(_ACTIVATIONS)}")


class Projections(nn.Module):
    """The three projections of an attention; `key_width` is the width of what keys and values are made of."""

    def __init__(self, config: QFormerConfig, key_width: int) -> None:
        super().__init__()
        self.heads, self.dropout = config.num_attention_heads, config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key, self.value = (nn.Linear(key_width, config.hidden_size) for _ in range(2))

    def split(self, rows: Tensor) -> Tensor:
        """[B, R, E] -> [B, H, R, D]"""
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Heads [B, H, R, D] over keys and values [B, H, S, D], mask [B, 1, 1, S] or None -> [B, R, E]."""
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, mask, rate)
        return mixed.transpose(1, 2).flatten(2)


class Output(nn.Module):
    """Post-norm: LayerNorm(dense(x) + residual)."""

    def __init__(self, config: QFormerConfig, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dropout(self.dense(x)) + residual)
        return out


class Attention(nn.Module):
    def __init__(self, config: QFormerConfig, key_width: int) -> None:
        super().__init__()
        # the released name of the projections is "self"
        self.add_module("self", Projections(config, key_width))
        self.output = Output(config, config.hidden_size)

    @property
    def inner(self) -> Projections:
        found: Projections = self._modules["self"]  # type: ignore[assignment]  # added above under this name
        return found

    def among(self, rows: Tensor) -> Tensor:
        """rows [B, R, E] attend to each other; output projection, residual and norm included."""
        inner = self.inner
        query, key, value = (inner.split(project(rows)) for project in (inner.query, inner.key, inner.value))
        out: Tensor = self.output(inner.attend(query, key, value, None), rows)
        return out


class Intermediate(nn.Module):
    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = _ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class Layer(nn.Module):
    """Self-attention over queries and text, cross-attention of the queries where `index` has one, feed-forwards apart."""

    def __init__(self, config: QFormerConfig, index: int) -> None:
        super().__init__()
        self.attention = Attention(config, config.hidden_size)
        reads = index % config.cross_attention_frequency == 0
        self.crossattention = Attention(config, config.encoder_hidden_size) if reads else None
        if config.text:
            self.intermediate, self.output = Intermediate(config), Output(config, config.intermediate_size)
        self.intermediate_query, self.output_query = Intermediate(config), Output(config, config.intermediate_size)

    def of_queries(self, rows: Tensor) -> Tensor:
        out: Tensor = self.output_query(self.intermediate_query(rows), rows)
        return out

    def of_text(self, text: Tensor) -> Tensor:
        out: Tensor = self.output(self.intermediate(text), text)
        return out


class Encoder(nn.Module):
    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))


class Embeddings(nn.Module):
    """One LayerNorm over queries, which have no position, and text, whose positions start at 0."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        if config.text:
            self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.LayerNorm(rows))
        return out

    def text(self, ids: Tensor | None, embedded: Tensor | None) -> Tensor:
        """ids int64 [B, T], or embedded words [B, T, E] -> [B, T, E] with positions, before the norm."""
        words = self.word_embeddings(ids) if embedded is None else embedded
        at = torch.arange(words.shape[1], device=words.device)
        out: Tensor = words + self.position_embeddings(at)
        return out


def initialise(module: nn.Module, deviation: float) -> None:
    """As BERT is: normal weights, no biases, norms that change nothing."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=deviation)
    bias: Any = getattr(module, "bias", None)
    if isinstance(module, nn.Linear | nn.LayerNorm) and bias is not None:
        nn.init.zeros_(bias)
