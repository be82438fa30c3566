"""From patches and a question to the tokens that the language model sees.

LLaMA-VID, arXiv 2311.17043, section 3; where paper and released code differ, the released code.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

from longreel.models.llama_vid.presets import QFormerSize
from longreel.nn import ContextAttention
from longreel.ops.adaptive_pool import adaptive_pool

Ops = Literal["reference", "longreel"]


class Adapter(nn.Module):
    """The text-guided Q-Former and the context attention, with the pooling and the projections into the language model.

    C is the width of the patches, H that of the language model, E that of the Q-Former, M its number of queries.

    Args:
        size: the Q-Former. vision_width: C. language_width: H.
        compress: content tokens, as in `longreel.nn.ContextAttention`.
        num_prefix_tokens: leading tokens (CLS) that the Q-Former sees and the context attention does not.
    """

    def __init__(
        self,
        size: QFormerSize,
        vision_width: int,
        language_width: int,
        *,
        compress: str | None = "mean",
        num_prefix_tokens: int = 1,
    ) -> None:
        super().__init__()
        # Post-norm as in BERT, with an FFN for the queries and another for the text: the published Q-Former.
        config = InstructBlipQFormerConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            intermediate_size=size.mlp,
            max_position_embeddings=size.positions,
            encoder_hidden_size=vision_width,
            cross_attention_frequency=2,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=size.width**-0.5,
        )
        self.vlm_att_encoder = InstructBlipQFormerModel(config)
        self.vlm_att_query = nn.Parameter(torch.randn(1, size.queries, size.width))
        self.vlm_att_ln = nn.LayerNorm(vision_width)
        self.attention = ContextAttention(
            size.width, vision_width, language_width, compress=compress, num_prefix_tokens=num_prefix_tokens
        )
        with torch.no_grad():
            for linear in (self.attention.vlm_att_projector, self.attention.vlm_att_key_projector):
                assert linear is not None
                linear.weight.normal_(std=linear.in_features**-0.5)

    def query(self, ids: Tensor, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """What each question looks for in each frame: the query rows of the Q-Former.

        Args:
            ids: int64 [P, T], the questions. mask: [P, T], nonzero for a real token; None: all are.
            features: [F, 1 + N, C], every token of the tower, CLS included.

        Returns:
            [P, F, M, E].
        """
        prompts, frames = ids.shape[0], features.shape[0]
        queries = self.vlm_att_query.shape[1]
        attend = None
        if mask is not None:
            attend = torch.cat([mask.new_ones(prompts, queries), mask], 1).repeat_interleave(frames, 0)
        # Row p * F + f: every question meets every frame.
        hidden = self.vlm_att_encoder(
            input_ids=ids.repeat_interleave(frames, 0),
            attention_mask=attend,
            query_embeds=self.vlm_att_query.expand(prompts * frames, -1, -1),
            encoder_hidden_states=self.vlm_att_ln(features).repeat(prompts, 1, 1),
        ).last_hidden_state
        return hidden[:, :queries].unflatten(0, (prompts, frames))

    def compress(self, queries: Tensor, features: Tensor, *, ops: Ops = "longreel") -> Tensor:
        """The language model's tokens, a frame's context token before its content tokens.

        Args:
            queries: [P, F, M, E] from `query`. features: [F, 1 + N, C].
            ops: "reference" is the released order of operations in plain PyTorch; "longreel" is `ContextAttention`,
                which folds both projections into the queries and reads the patches once. The same mathematics.

        Returns:
            [P, F * (1 + n), H].
        """
        if ops == "longreel":
            return self.attention(queries, features).flatten(1, 2)
        if ops != "reference":
            raise ValueError(f"ops must be 'reference' or 'longreel', got {ops!r}")
        return released_token_generation(self.attention, queries, features).flatten(1, 2)


def released_token_generation(attention: ContextAttention, queries: Tensor, features: Tensor) -> Tensor:
    """What `attention` computes, in the released order: keys for every patch, softmax, values, mean over the queries.

    queries [P, F, M, E], features [F, prefix + N, C] -> [P, F, 1 + n, H].
    """
    patches = features[:, attention.num_prefix_tokens :]
    # [P, F, M, C], [F, C, N], [P, F, M, N]
    text = attention.vlm_att_projector(queries) if attention.vlm_att_projector is not None else queries
    keys = attention.vlm_att_key_projector(patches).transpose(-1, -2)
    scores = text @ keys / patches.shape[-1] ** 0.5
    context = (scores.softmax(-1) @ patches).mean(-2, keepdim=True)
    content = attention.mm_projector(adaptive_pool(patches, **attention.pooling, backend="reference"))
    first = attention.vlm_att_val_projector(context)
    return torch.cat([first, content.expand(first.shape[0], -1, -1, -1)], -2)


_RELEASED = (
    ("vlm_att_encoder.embeddings.layernorm.", "vlm_att_encoder.bert.embeddings.LayerNorm."),
    ("vlm_att_encoder.embeddings.", "vlm_att_encoder.bert.embeddings."),
    ("vlm_att_encoder.encoder.", "vlm_att_encoder.bert.encoder."),
    ("attention.vlm_", "vlm_"),
    ("attention.mm_", "mm_"),
)


def released_name(name: str) -> str:
    """The released checkpoint's name of a parameter of `Adapter`."""
    ours, released = next(((ours, released) for ours, released in _RELEASED if name.startswith(ours)), ("", ""))
    return "model." + released + name[len(ours) :].replace("attention.attention.", "attention.self.")
