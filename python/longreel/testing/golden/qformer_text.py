"""The Q-Former with text that LLaMA-VID and Video-LLaMA share: query rows and text rows of its last layer."""

import torch
from torch import Tensor, nn

from longreel.models.llama_vid.adapter import build_qformer, released_qformer_name
from longreel.testing.golden.files import GoldenCase
from longreel.testing.golden.llama_vid_attention import qformer_size

_PREFIX = "Qformer.bert."


def replay(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """``queries`` [B, M, E] and, where there is text, ``text`` [B, T, E]. No op of ours takes part: `backend` has no say."""
    config, weights, inputs = case.file.config, case.file.weights(dtype), case.inputs(dtype)
    qformer: nn.Module = build_qformer(qformer_size(config), config["encoder_width"], config["cross_attention_freq"])
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
    return {"queries": hidden[:, :rows]} | ({} if ids is None else {"text": hidden[:, rows:]})
