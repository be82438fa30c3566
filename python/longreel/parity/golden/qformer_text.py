"""The Q-Former with text that LLaMA-VID and Video-LLaMA share: query rows and text rows of its last layer."""

import torch
from torch import Tensor

from longreel.models.published_qformer import PublishedQFormer
from longreel.nn import QFormer, QFormerConfig
from longreel.parity.golden.files import GoldenCase

_PREFIX = "Qformer.bert."


def replay(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """``queries`` [B, M, E] and, where there is text, ``text`` [B, T, E].

    On the reference backend by transformers' forward, otherwise by `nn.QFormer`.
    """
    weights, inputs = case.file.weights(dtype), case.inputs(dtype)
    qformer = QFormer(_config(case), backend=backend).to(dtype).eval()
    qformer.load_state_dict({name: weights[_PREFIX + name] for name in qformer.state_dict()})
    with torch.no_grad():
        rows, text = (PublishedQFormer(qformer).eval() if backend == "reference" else qformer)(
            weights["query_tokens"][:, : case.meta["num_query_used"]],
            inputs["encoder_hidden_states"],
            inputs["encoder_attention_mask"],
            input_ids=inputs.get("input_ids"),
            text_mask=inputs.get("text_mask"),
            return_text=True,
        )
    return {"queries": rows} | ({} if text is None else {"text": text})


def _config(case: GoldenCase) -> QFormerConfig:
    config = case.file.config
    same = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    return QFormerConfig(
        **{name: config[name] for name in (*same, "max_position_embeddings")},
        encoder_hidden_size=config["encoder_width"],
        cross_attention_frequency=config["cross_attention_freq"],
    )
