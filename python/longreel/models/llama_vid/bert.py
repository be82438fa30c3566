"""The text decoder of the released code's "raw" variants: a BERT whose text tokens read the frame."""

from typing import Any

from transformers import BertConfig, BertModel

from longreel.models.llama_vid.presets import QFormerSize


def build_bert(size: QFormerSize) -> BertModel:
    """A causal BERT with cross-attention in every layer; its own width is what it attends to. `size.queries` has no say."""
    return BertModel(BertConfig(**bert_sizes(size), is_decoder=True, add_cross_attention=True), add_pooling_layer=False)


def bert_sizes(size: QFormerSize) -> dict[str, Any]:
    """What the configurations of a BERT and of a Q-Former have in common; no dropout."""
    return {
        "vocab_size": size.vocabulary,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.mlp,
        "max_position_embeddings": size.positions,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": size.width**-0.5,
    }
