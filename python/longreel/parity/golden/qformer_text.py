"""The Q-Former with text that LLaMA-VID and Video-LLaMA share: query rows and text rows of its last layer."""

from typing import Any

import torch
from torch import Tensor

from longreel.models.llama_vid import build_qformer, released_qformer_name
from longreel.nn import QFormer, QFormerConfig
from longreel.parity.golden.files import GoldenCase
from longreel.parity.golden.llama_vid_attention import qformer_size

_PREFIX = "Qformer.bert."


def replay(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """``queries`` [B, M, E] and, where there is text, ``text`` [B, T, E].

    On the reference backend by transformers' forward, otherwise by `nn.QFormer`.
    """
    weights, inputs = case.file.weights(dtype), case.inputs(dtype)
    queries = weights["query_tokens"][:, : case.meta["num_query_used"]]
    with torch.no_grad():
        if backend == "reference":
            return _published(case, weights, inputs, queries, dtype)
        qformer = QFormer(_config(case), backend=backend).to(dtype).eval()
        qformer.load_state_dict({name: weights[_PREFIX + name] for name in qformer.state_dict()})
        rows, text = qformer(
            queries,
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


def _published(
    case: GoldenCase, weights: dict[str, Tensor], inputs: dict[str, Any], queries: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    config, encoded, ids = case.file.config, inputs["encoder_hidden_states"], inputs.get("input_ids")
    qformer: Any = build_qformer(qformer_size(config), config["encoder_width"], config["cross_attention_freq"])
    qformer.to(dtype).eval()
    qformer.load_state_dict({name: weights[_PREFIX + released_qformer_name(name)] for name in qformer.state_dict()})
    queries, mask = queries.expand(len(encoded), -1, -1), None
    if ids is not None:
        mask = torch.cat([torch.ones(queries.shape[:2], dtype=torch.long), inputs["text_mask"]], 1)
    hidden = qformer(
        input_ids=ids,
        attention_mask=mask,
        query_embeds=queries,
        encoder_hidden_states=encoded,
        encoder_attention_mask=inputs["encoder_attention_mask"],
    ).last_hidden_state
    rows = queries.shape[1]
    return {"queries": hidden[:, :rows]} | ({} if ids is None else {"text": hidden[:, rows:]})
