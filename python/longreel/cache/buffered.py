"""Keys and values in buffers: a step writes its own tokens, where transformers' DynamicCache copies all that went before."""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class BufferedLayer(DynamicLayer):
    """One layer's keys and values [B, Hkv, tokens, D]: views of buffers for `capacity` tokens; a full one is doubled.

    max_bytes: of keys and values together, buffers included; a token that does not fit is refused before it is written.
    """

    # Before the first tokens they are None, which `is_initialized` tells.
    keys: Tensor
    values: Tensor

    def __init__(self, capacity: int = 0, max_bytes: int | None = None) -> None:
        super().__init__()
        self.max_bytes = max_bytes
        self._capacity = capacity
        # Of keys and of values [B, Hkv, capacity, D]; None before the first tokens.
        self._buffers: tuple[Tensor, Tensor] | None = None

    @property
    def tokens(self) -> int:
        """Tokens cached."""
        return self.keys.shape[-2] if self.is_initialized and self.keys.numel() else 0

    # Its name until 0.1.0.
    rows = tokens

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens cached."""
        return _bytes(self.keys, self.values) if self.tokens else 0

    @property
    def allocated(self) -> int:
        """Bytes of the memory that this layer holds on to: at least `nbytes`."""
        return max(self.nbytes, _bytes(*self._buffers) if self._buffers is not None else 0)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add tokens [B, Hkv, n, D]; returns all of them.

        Raises:
            ValueError: they are of another batch, heads, head size or dtype than those cached.
            MemoryError: they do not fit `max_bytes`. The layer is then as it was.
        """
        if self.tokens:
            cached, given = ((*t.shape[:2], t.shape[-1], t.dtype) for t in (self.keys, key_states))
            if cached != given:
                raise ValueError(
                    f"the cache holds keys {list(self.keys.shape)} {self.keys.dtype};"
                    f" given {list(key_states.shape)} {key_states.dtype}"
                )
        tokens, added = self.tokens, key_states.shape[-2]
        most = self._most(key_states, value_states)
        if most is not None and tokens + added > most:
            raise MemoryError(
                f"the cache is full: max_bytes leaves a layer {self.max_bytes} bytes, room for {most} tokens;"
                f" it holds {tokens}, {added} more were given"
            )
        if torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad):
            # A token written in place has no gradient.
            self._buffers = None
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self._room(tokens, added, most, key_states, value_states)
        keys[..., tokens : tokens + added, :] = key_states
        values[..., tokens : tokens + added, :] = value_states
        self.keys, self.values = keys[..., : tokens + added, :], values[..., : tokens + added, :]
        return self.keys, self.values

    def reset(self) -> None:
        # Some versions of transformers write zeros into tensors that forks share.
        self.keys = self.values = None  # type: ignore[assignment]
        self._buffers, self.is_initialized = None, False
        super().reset()

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.max_bytes is not None and self.nbytes * repeats > self.max_bytes:
            raise MemoryError(
                f"the cache is full: {repeats} copies of a layer's {self.nbytes} bytes, max_bytes leaves it {self.max_bytes}"
            )
        super().batch_repeat_interleave(repeats)
        self._buffers = None

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._buffers = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._buffers = None

    def __copy__(self) -> "BufferedLayer":
        """The copy shares the tokens, and what is added to either stays its own: both leave the buffers as they are."""
        self._buffers = None
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__ | {"_capacity": 0}
        return other

    def snapshot(self) -> dict[str, Any]:
        """All that `restore` needs to undo what is added later: tokens are only ever written behind those that are there."""
        return dict(self.__dict__)

    def restore(self, before: dict[str, Any]) -> None:
        self.__dict__.clear()
        self.__dict__.update(before)

    def _most(self, *states: Tensor) -> int | None:
        """Tokens of this shape that `max_bytes` has room for."""
        if self.max_bytes is None:
            return None
        each = sum(t.shape[0] * t.shape[1] * t.shape[-1] * t.element_size() for t in states)
        return self.max_bytes // each if each else None

    def _room(self, tokens: int, added: int, most: int | None, *like: Tensor) -> tuple[Tensor, Tensor]:
        """The buffers, with the tokens so far and room for `added` more."""
        held = self._buffers
        if (
            held is not None
            and tokens + added <= held[0].shape[-2]
            and _begins(held[0], self.keys)
            and _begins(held[1], self.values)
        ):
            return held
        capacity = max(self._capacity, tokens + added if not tokens else 2 * tokens, tokens + added)
        if most is not None:
            capacity = min(capacity, most)
        # Made under inference_mode they could be written there only.
        with torch.inference_mode(False):
            keys, values = (t.new_empty(*t.shape[:2], capacity, t.shape[-1]) for t in like)
        if tokens:
            keys[..., :tokens, :], values[..., :tokens, :] = self.keys, self.values
        self._buffers = keys, values
        return self._buffers


class BufferedCache(Cache):
    """A DynamicCache whose tokens are written in place, once.

    Args:
        config: of the language model; every layer attends to all tokens.
        capacity: tokens that will come, as far as is known: prompt and answer. More may come.
    """

    def __init__(self, config: PreTrainedConfig, capacity: int = 0) -> None:
        layers = config.get_text_config().num_hidden_layers
        super().__init__(layers=[BufferedLayer(capacity) for _ in range(layers)])


def _bytes(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _begins(buffer: Tensor, tokens: Tensor) -> bool:
    """Whether `tokens` are the buffer's first ones: beams, crops and forks put other tensors there."""
    return (
        tokens.data_ptr() == buffer.data_ptr()
        and tokens.stride() == buffer.stride()
        and tokens.shape[:2] == buffer.shape[:2]
        and tokens.dtype == buffer.dtype
    )
