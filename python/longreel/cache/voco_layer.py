"""A layer of a VoCoCache: what it keeps while a vision stage runs, and what it is to transformers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from longreel.cache.buffered import BufferedLayer
from longreel.layout import VideoLayout


@dataclass
class Rows:
    """What the layers of a cache hold, and where the next rows stand.

    prefix, voco: rows kept of each. frame_at, text_at: position of the next frame's first row, and of the next text row.
    keep: while a vision stage runs, which of its rows to keep; `alone`: it sees none of those kept before.
    """

    prefix: int = 0
    voco: int = 0
    frame_at: int = 0
    text_at: int = 0
    keep: Tensor | None = None
    alone: bool = False

    @property
    def kept(self) -> int:
        return self.prefix + self.voco


class VoCoLayer(BufferedLayer):
    """Keys and values [B, Hkv, rows, D]. To transformers the cache is as long as the positions it spans, and its first rows
    are dropped, as those of a sliding window are."""

    def __init__(self, held: Rows) -> None:
        super().__init__()
        self.held = held
        # While a vision stage runs, whether this layer computes the rows to keep only.
        self.narrowed = False

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        keep = self.held.keep
        if keep is None:
            return super().update(key_states, value_states)
        if self.narrowed:
            super().update(key_states, value_states)
            return key_states, value_states
        seen = (key_states, value_states)
        if self.rows and not self.held.alone:
            seen = torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)
        at = keep.to(key_states.device)
        super().update(key_states.index_select(-2, at), value_states.index_select(-2, at))
        return seen

    @property
    def dropped(self) -> int:
        return self.held.text_at - self.held.kept

    def get_seq_length(self) -> int:
        return self.dropped + self.rows

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        if self.held.alone:
            return query_length, self.held.text_at
        return self.rows + query_length, self.dropped


@contextmanager
def narrowed_to(decoder: Any, layers: Sequence[VoCoLayer], keep: Tensor) -> Iterator[None]:
    """The decoder's last layer computes the rows `keep` only: of these keys and values stay, and nobody reads its output.

    Decoders without the shape that transformers gives them (a list `layers`, tables of positions as a keyword) run whole.
    """
    modules: Any = getattr(decoder, "layers", ())

    def narrow(_: nn.Module, rows: tuple[Any, ...], given: dict[str, Any]) -> Any:
        tables = given.get("position_embeddings")
        if len(rows) != 1 or not isinstance(tables, tuple):
            return None
        layers[-1].narrowed = True
        at = keep.to(rows[0].device)
        return (rows[0].index_select(1, at),), given | {
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
