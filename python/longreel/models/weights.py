"""Weights of every system: drawn from a seed where they are wanted, in the dtype that is computed in."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from longreel.models.sizes import LanguageSize


@contextlib.contextmanager
def weights_from(seed: int, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Weights made here come from `seed`, on `device`; on a GPU in `dtype` at once, where true sizes are wanted."""
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype if device.type == "cuda" else default)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


def language_model(size: LanguageSize, dtype: torch.dtype) -> Any:
    """A Llama whose weights are drawn wide enough (standard deviation width ** -0.5) that its input matters to the end.

    Of a checkpoint, what its own config.json says, built by transformers; none of the checkpoint's code is run.
    """
    config = _llama(size) if size.config is None else size.config.build()
    # Made in its dtype: a cast would round the inverse frequencies of the positions too.
    return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def _llama(size: LanguageSize) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=size.positions,
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": size.rope_factor},
        initializer_range=size.width**-0.5,
    )
