"""A layer of a VoCoCache: what it caches while a vision stage runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from longreel.cache.compressed import CompressedLayer
from longreel.layout import VideoLayout


class VoCoLayer(CompressedLayer):
    """Keys and values [B, Hkv, tokens, D] of VoCo tokens, and of the prefix where later tokens attend to it.

    keep: while a vision stage runs, which of its tokens to cache; `alone`: it attends to none of those cached before.
    narrowed: this layer computes the tokens to cache only.
    """

    keep: Tensor | None = None
    alone = False
    narrowed = False

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if self.keep is None:
            return super().update(key_states, value_states)
        if self.narrowed:
            super().update(key_states, value_states)
            return key_states, value_states
        visible = (key_states, value_states)
        if self.tokens and not self.alone:
            visible = torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)
        at = self.keep.to(key_states.device)
        super().update(key_states.index_select(-2, at), value_states.index_select(-2, at))
        return visible

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return (query_length, self.counts.text_at) if self.alone else super().get_mask_sizes(query_length)


@contextmanager
def staged(layers: Sequence[VoCoLayer], keep: Tensor, alone: bool) -> Iterator[None]:
    """While a vision stage runs."""
    for layer in layers:
        layer.keep, layer.alone = keep, alone
    try:
        yield
    finally:
        for layer in layers:
            layer.keep, layer.alone = None, False


@contextmanager
def narrowed_to(decoder: Any, layers: Sequence[VoCoLayer], keep: Tensor) -> Iterator[None]:
    """The decoder's last layer computes the tokens `keep` only: of these keys and values stay, and nobody reads its output.

    Decoders without the shape that transformers gives them (a list `layers`, tables of positions as a keyword) run whole.
    """
    modules: Any = getattr(decoder, "layers", ())

    def narrow(_: nn.Module, hidden: tuple[Any, ...], given: dict[str, Any]) -> Any:
        tables = given.get("position_embeddings")
        if len(hidden) != 1 or not isinstance(tables, tuple):
            return None
        layers[-1].narrowed = True
        at = keep.to(hidden[0].device)
        return (hidden[0].index_select(1, at),), given | {
            "position_embeddings": tuple(table.index_select(1, at.to(table.device)) for table in tables),
            "position_ids": None,
            "attention_mask": None,
            "video_layout": VideoLayout.causal(len(at)),
        }

    hook = modules[-1].register_forward_pre_hook(narrow, with_kwargs=True) if len(modules) == len(layers) else None
    try:
        yield
    finally:
        layers[-1].narrowed = False
        if hook is not None:
            hook.remove()
