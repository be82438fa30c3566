"""From patches and a question to the tokens that the language model sees.

LLaMA-VID, arXiv 2311.17043, section 3; where paper and released code differ, the released code.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

from longreel.models.llama_vid.presets import QFormerSize
from longreel.nn import ContextAttention
from longreel.ops.adaptive_pool import adaptive_pool
from longreel.ops.compress_frames import compress_frames

Ops = Literal["reference", "longreel"]
Equation = Literal["released", "paper"]


def build_qformer(size: QFormerSize, vision_width: int, cross_attention_every: int = 2) -> InstructBlipQFormerModel:
    """The published Q-Former: post-norm as in BERT, with an FFN for the queries and another for the text."""
    config = InstructBlipQFormerConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.mlp,
        max_position_embeddings=size.positions,
        encoder_hidden_size=vision_width,
        cross_attention_frequency=cross_attention_every,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=size.width**-0.5,
    )
    return InstructBlipQFormerModel(config)


class Adapter(nn.Module):
    """The text-guided Q-Former and the context attention, with the pooling and the projections into the language model.

    C is the width of the patches, H that of the language model, E that of the Q-Former, M its number of queries.

    Args:
        size: the Q-Former. vision_width: C. language_width: H.
        compress: content tokens, as in `longreel.nn.ContextAttention`.
        num_prefix_tokens: leading tokens (CLS) that the Q-Former sees and the context attention does not.
        equation: "released" scores Wp q . Wk x / sqrt(C); "paper" is the paper's equation 1, Wp q . x, without a scale
            and without Wk (whose weights stay in the state dict).
        backend: as in `longreel.compress_frames`.

    Raises:
        ValueError: `equation` or `compress` is something else.
    """

    def __init__(
        self,
        size: QFormerSize,
        vision_width: int,
        language_width: int,
        *,
        compress: str | None = "mean",
        num_prefix_tokens: int = 1,
        equation: Equation = "released",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if equation not in get_args(Equation):
            raise ValueError(f"equation must be 'released' or 'paper', got {equation!r}")
        self.equation = equation
        self.vlm_att_encoder = build_qformer(size, vision_width)
        self.vlm_att_query = nn.Parameter(torch.randn(1, size.queries, size.width))
        self.vlm_att_ln = nn.LayerNorm(vision_width)
        self.attention = ContextAttention(
            size.width,
            vision_width,
            language_width,
            compress=compress,
            num_prefix_tokens=num_prefix_tokens,
            backend=backend,
        )
        with torch.no_grad():
            for linear in (self.attention.vlm_att_projector, self.attention.vlm_att_key_projector):
                assert linear is not None
                linear.weight.normal_(std=linear.in_features**-0.5)

    def query(self, ids: Tensor, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """What each question looks for in each frame: the query rows of the Q-Former.

        Questions are run one after the other without their padding, so that one question costs the same memory as many.

        Args:
            ids: int64 [P, T], the questions, padded on the right. mask: [P, T], nonzero for a real token; None: all are.
            features: [F, 1 + N, C], every token of the tower, CLS included.

        Returns:
            [P, F, M, E].
        """
        frames, rows = features.shape[0], self.vlm_att_query.shape[1]
        encoded = self.vlm_att_ln(features)
        hidden = []
        for index, question in enumerate(ids):
            tokens = question if mask is None else question[mask[index] != 0]
            states = self.vlm_att_encoder(
                input_ids=tokens.expand(frames, -1),
                query_embeds=self.vlm_att_query.expand(frames, -1, -1),
                encoder_hidden_states=encoded,
            ).last_hidden_state
            hidden.append(states[:, :rows])
        return torch.stack(hidden)

    def compress(self, queries: Tensor, features: Tensor, *, ops: Ops = "longreel") -> Tensor:
        """The language model's tokens, a frame's context token before its content tokens.

        Args:
            queries: [P, F, M, E] from `query`. features: [F, 1 + N, C].
            ops: "reference" is the released order of operations in plain PyTorch; "longreel" is `ContextAttention`,
                which folds both projections into the queries and reads the patches once. The same mathematics.

        Returns:
            [P, F * (1 + n), H].
        """
        if ops not in get_args(Ops):
            raise ValueError(f"ops must be 'reference' or 'longreel', got {ops!r}")
        if ops == "reference":
            tokens = released_token_generation(self.attention, queries, features, self.equation)
        elif self.equation == "paper":
            tokens = self._paper_tokens(queries, features)
        else:
            tokens = self.attention(queries, features)
        return tokens.flatten(1, 2)

    def _paper_tokens(self, queries: Tensor, features: Tensor) -> Tensor:
        attention = self.attention
        assert attention.vlm_att_projector is not None
        context, content, _ = compress_frames(
            attention.vlm_att_projector(queries), features, **attention.pooling,
            num_prefix_tokens=attention.num_prefix_tokens, scale=1.0, backend=attention.backend,
        )  # fmt: skip
        # [P, F, 1, H] and [F, n, H]
        first = attention.vlm_att_val_projector(context).unsqueeze(-2)
        return _join(first, attention.mm_projector(content))


def released_token_generation(
    attention: ContextAttention, queries: Tensor, features: Tensor, equation: Equation = "released"
) -> Tensor:
    """What `attention` computes, in the released order: keys for every patch, softmax, values, mean over the queries.

    queries [P, F, M, E], features [F, prefix + N, C] -> [P, F, 1 + n, H].
    """
    patches = features[:, attention.num_prefix_tokens :]
    # [P, F, M, C], [F, C, N], [P, F, M, N]
    text = attention.vlm_att_projector(queries) if attention.vlm_att_projector is not None else queries
    if equation == "paper":
        scores = text @ patches.transpose(-1, -2)
    else:
        scores = text @ attention.vlm_att_key_projector(patches).transpose(-1, -2) / patches.shape[-1] ** 0.5
    context = (scores.softmax(-1) @ patches).mean(-2, keepdim=True)
    content = attention.mm_projector(adaptive_pool(patches, **attention.pooling, backend="reference"))
    return _join(attention.vlm_att_val_projector(context), content)


def _join(first: Tensor, content: Tensor) -> Tensor:
    """Context tokens [P, F, 1, H] before the content tokens [F, n, H] that all questions share."""
    return torch.cat([first, content.expand(first.shape[0], -1, -1, -1)], -2)


def released_qformer_name(name: str) -> str:
    """The released name, below `bert.`, of a parameter of the Q-Former."""
    return name.replace("embeddings.layernorm.", "embeddings.LayerNorm.").replace(
        "attention.attention.", "attention.self."
    )


def released_name(name: str) -> str:
    """The released checkpoint's name of a parameter of `Adapter`."""
    room, _, rest = name.partition(".")
    if room == "vlm_att_encoder":
        return f"model.vlm_att_encoder.bert.{released_qformer_name(rest)}"
    return "model." + (rest if room == "attention" else name)


def from_released(released: Mapping[str, Tensor], adapter: Adapter) -> dict[str, Tensor]:
    """The state dict of `adapter` out of a released one, whose other entries (tower, language model) are left alone.

    Raises:
        KeyError: the released state dict lacks a parameter, named as the release names it.
    """
    return {name: released[released_name(name)] for name in adapter.state_dict()}


def to_released(adapter: Adapter) -> dict[str, Tensor]:
    """The adapter's parameters under their released names."""
    return {released_name(name): value for name, value in adapter.state_dict().items()}
