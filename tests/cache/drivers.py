"""How each compressed cache is driven: a tiny model, its options, and pieces of video. A new subclass adds an entry here."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import longreel.integrations.transformers  # noqa: F401
from longreel.cache import CompressedCache, VoCoCache

WIDTH, LAYERS = 16, 2
Segments = list[tuple[str, int]]


class Driver(NamedTuple):
    """options: keyword arguments to draw from. piece(first, size): segments of one append, size from 1 to 3."""

    options: dict[str, tuple[Any, ...]]
    piece: Callable[[bool, int], Segments]


def _frames(first: bool, size: int) -> Segments:
    return [("prefix", 2)] * first + [("vision", 3), ("text", 1), ("voco", 2)] * size


DRIVERS: dict[type[CompressedCache], Driver] = {
    VoCoCache: Driver(
        {
            "mode": ("independent", "causal"),
            "prefix_visible_to": ("first", "frames", "all"),
            "text_sees_prefix": (False, True),
            "positions": ("compact", "absolute"),
        },
        _frames,
    )
}


@lru_cache
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=LAYERS, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.3, attn_implementation="longreel", eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()
