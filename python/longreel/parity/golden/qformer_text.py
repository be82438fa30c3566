"""The Q-Former with text that LLaMA-VID and Video-LLaMA share: query rows and text rows of its last layer."""

from typing import Any

import torch
from torch import Tensor
from transformers import InstructBlipQFormerModel

from longreel.models.llama_vid import build_qformer, qformer_frames, released_qformer_name
from longreel.parity.golden.files import GoldenCase
from longreel.parity.golden.llama_vid_attention import qformer_size

_PREFIX = "Qformer.bert."


def replay(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """``queries`` [B, M, E] and, where there is text, ``text`` [B, T, E].

    On the reference backend both come from transformers' forward; otherwise the queries from `qformer_frames`, row by row
    (it takes no padding, and the text's last rows are not its business).
    """
    config, weights, inputs = case.file.config, case.file.weights(dtype), case.inputs(dtype)
    qformer: Any = build_qformer(qformer_size(config), config["encoder_width"], config["cross_attention_freq"])
    qformer.to(dtype).eval()
    qformer.load_state_dict({name: weights[_PREFIX + released_qformer_name(name)] for name in qformer.state_dict()})
    encoded = inputs["encoder_hidden_states"]
    queries = weights["query_tokens"].expand(len(encoded), -1, -1)[:, : case.meta["num_query_used"]]
    ids, mask = inputs.get("input_ids"), None
    if ids is not None:
        mask = torch.cat([torch.ones(queries.shape[:2], dtype=torch.long), inputs["text_mask"]], 1)
    with torch.no_grad():
        hidden = qformer(
            input_ids=ids,
            attention_mask=mask,
            query_embeds=queries,
            encoder_hidden_states=encoded,
            encoder_attention_mask=inputs["encoder_attention_mask"],
        ).last_hidden_state
    rows = queries.shape[1]
    results = {"queries": hidden[:, :rows]} | ({} if ids is None else {"text": hidden[:, rows:]})
    if backend != "reference":
        results["queries"] = torch.stack([
            _ours(qformer, queries[index], None if ids is None else ids[index][inputs["text_mask"][index] != 0], frame)
            for index, frame in enumerate(_without_padding(encoded, inputs["encoder_attention_mask"]))
        ])  # fmt: skip
    return results


def _ours(qformer: InstructBlipQFormerModel, queries: Tensor, ids: Tensor | None, frame: Tensor) -> Tensor:
    """[M, E] of one row: its question (or none) and its frame [S, C]."""
    question = torch.empty(0, dtype=torch.long) if ids is None else ids
    with torch.no_grad():
        return qformer_frames(qformer, queries, [question], frame[None])[0, 0]


def _without_padding(encoded: Tensor, mask: Tensor | None) -> list[Tensor]:
    return list(encoded) if mask is None else [row[keep != 0] for row, keep in zip(encoded, mask, strict=True)]
