"""Pairs of one model with the same weights under longreel and under eager attention."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.3, "pad_token_id": 0, "eos_token_id": None, "bos_token_id": 1,
}  # fmt: skip
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def pair_of(model: type, config: type, **changes: Any) -> tuple[PreTrainedModel, PreTrainedModel]:
    torch.manual_seed(0)
    eager = model(config(**SIZES | changes, attn_implementation="eager")).eval()
    ours = deepcopy(eager)
    ours.set_attn_implementation("longreel")
    return ours, eager


def some_ids(batch: int, length: int) -> Tensor:
    return torch.randint(1, 40, (batch, length))


def left_mask(batch: int, length: int, pad: int) -> Tensor:
    """Zeros on the left of the second sample."""
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[1:2, :pad] = 0
    return mask


def both(pair: tuple[PreTrainedModel, PreTrainedModel], *args: Any, rows: Tensor | None = None, **given: Any) -> None:
    """Logits of the real rows are the same."""
    with torch.no_grad():
        ours, eager = (model(*args, **given).logits for model in pair)
    if rows is not None:
        ours, eager = ours[rows.bool()], eager[rows.bool()]
    torch.testing.assert_close(ours, eager, **CLOSE)


def answers(pair: tuple[PreTrainedModel, PreTrainedModel], ids: Tensor, **given: Any) -> None:
    """`generate` is the same."""
    ours, eager = (model.generate(ids, **{"max_new_tokens": 7, "do_sample": False} | given) for model in pair)
    assert torch.equal(ours, eager)
