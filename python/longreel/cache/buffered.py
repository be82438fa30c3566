"""Keys and values in buffers: a step writes its own rows, where transformers' DynamicCache copies all that went before."""

import torch
from torch import Tensor
from transformers import Cache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class BufferedLayer(DynamicLayer):
    """One layer's keys and values [B, Hkv, rows, D]: views of buffers for `capacity` rows; a full one is doubled."""

    # Before the first rows they are None, which `is_initialized` tells.
    keys: Tensor
    values: Tensor

    def __init__(self, capacity: int = 0) -> None:
        super().__init__()
        self._capacity = capacity
        # Of keys and of values [B, Hkv, capacity, D]; None before the first rows.
        self._buffers: tuple[Tensor, Tensor] | None = None

    @property
    def rows(self) -> int:
        """Rows held."""
        return self.keys.shape[-2] if self.is_initialized and self.keys.numel() else 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add rows [B, Hkv, n, D]; returns all of them.

        Raises:
            ValueError: they are of another batch, heads, head size or dtype than those held.
        """
        if self.rows:
            held, given = ((*t.shape[:2], t.shape[-1], t.dtype) for t in (self.keys, key_states))
            if held != given:
                raise ValueError(
                    f"the cache holds keys {list(self.keys.shape)} {self.keys.dtype};"
                    f" given {list(key_states.shape)} {key_states.dtype}"
                )
        if torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad):
            # A row written in place has no gradient.
            self._buffers = None
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, added = self.rows, key_states.shape[-2]
        keys, values = self._room(rows, added, key_states, value_states)
        keys[..., rows : rows + added, :] = key_states
        values[..., rows : rows + added, :] = value_states
        self.keys, self.values = keys[..., : rows + added, :], values[..., : rows + added, :]
        return self.keys, self.values

    def reset(self) -> None:
        self._buffers = None
        super().reset()

    def __copy__(self) -> "BufferedLayer":
        """The copy shares the rows, and what is added to either stays its own: both leave the buffers as they are."""
        self._buffers = None
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__ | {"_capacity": 0}
        return other

    def _room(self, rows: int, added: int, *like: Tensor) -> tuple[Tensor, Tensor]:
        """The buffers, with the rows so far and room for `added` more."""
        held = self._buffers
        if (
            held is not None
            and rows + added <= held[0].shape[-2]
            and _begins(held[0], self.keys)
            and _begins(held[1], self.values)
        ):
            return held
        capacity = max(self._capacity, rows + added if not rows else 2 * rows, rows + added)
        keys, values = (t.new_empty(*t.shape[:2], capacity, t.shape[-1]) for t in like)
        if rows:
            keys[..., :rows, :], values[..., :rows, :] = self.keys, self.values
        self._buffers = keys, values
        return self._buffers


class BufferedCache(Cache):
    """A DynamicCache whose rows are written in place, once.

    Args:
        config: of the language model; every layer attends to all rows.
        capacity: rows that will come, as far as is known: prompt and answer. More may come.
    """

    def __init__(self, config: PreTrainedConfig, capacity: int = 0) -> None:
        layers = config.get_text_config().num_hidden_layers
        super().__init__(layers=[BufferedLayer(capacity) for _ in range(layers)])


def _begins(buffer: Tensor, rows: Tensor) -> bool:
    """Whether `rows` are the buffer's first ones: beams, crops and forks put other tensors there."""
    return (
        rows.data_ptr() == buffer.data_ptr()
        and rows.stride() == buffer.stride()
        and rows.shape[:2] == buffer.shape[:2]
        and rows.dtype == buffer.dtype
        # Made under inference_mode, it is written there only.
        and (torch.is_inference_mode_enabled() or not buffer.is_inference())
    )
