"""One layer of a VSTCache: the video's keys and values in a buffer of planned size, the text behind it in one of its own."""

from typing import Any

import torch
from torch import Tensor

from longreel.cache.buffered import _begins, _bytes
from longreel.cache.compressed import CompressedLayer

Pair = tuple[Tensor, Tensor]


class VSTLayer(CompressedLayer):
    """Keys and values [B, Hkv, capacity, D], rotated: of prefix and VST tokens, each written once at its place for good.

    Text that goes through `VSTCache.attend` stands in buffers [B, Hkv, text_capacity, D] of its own, so that forks share the
    video. Text that goes through transformers' `update` stands behind the video, in a copy that a fork makes then.
    """

    def __init__(self, capacity: int = 0, text_capacity: int = 0, max_bytes: int | None = None) -> None:
        super().__init__(capacity, max_bytes)
        self.text_capacity = text_capacity
        self._text: Pair | None = None
        self.text_tokens = 0

    @property
    def tokens(self) -> int:
        """Tokens cached, text in buffers of its own among them."""
        return self.video_tokens + self.text_tokens

    @property
    def video_tokens(self) -> int:
        """Tokens in `keys` and `values`."""
        return self.keys.shape[-2] if self.is_initialized and self.keys.numel() else 0

    @property
    def nbytes(self) -> int:
        text = 0
        if self._text is not None and self.text_capacity:
            text = _bytes(*self._text) // self.text_capacity * self.text_tokens
        return (_bytes(self.keys, self.values) if self.video_tokens else 0) + text

    @property
    def allocated(self) -> int:
        """Bytes of the buffers that this layer made, text's among them; 0 in a fork that has no text yet."""
        made = (pair for pair in (self._buffers, self._text) if pair is not None)
        return sum(_bytes(*pair) for pair in made)

    def memory(self, added: int, *like: Tensor) -> Pair:
        """The buffers [B, Hkv, capacity, D], with the video so far and room for `added` more; like: [B, *, Hkv, D] each."""
        states = tuple(t[:, :0].transpose(1, 2) for t in like)
        if not self.is_initialized:
            self.lazy_initialization(*states)
        return self._room(self.video_tokens, added, self._most(*states), *states)

    def hold(self, memory: Pair, tokens: int) -> None:
        """`tokens` of the memory are there now."""
        self.keys, self.values = (t[..., :tokens, :] for t in memory)

    def text(self, added: int, *like: Tensor) -> Pair:
        """The text's buffers [B, Hkv, text_capacity, D], with room for `added` more; like: [B, *, Hkv, D] each."""
        self.check_text(added)
        if self._text is None:
            self._check_bytes(self._size(self.text_capacity, like), "text_capacity")
            # Made under inference_mode they could be written there only.
            with torch.inference_mode(False):
                key, value = (t.new_empty(t.shape[0], t.shape[2], self.text_capacity, t.shape[3]) for t in like)
            self._text = key, value
        return self._text

    def check_text(self, added: int) -> None:
        """MemoryError where there is no room for `added` more tokens of text."""
        if self.text_tokens + added > self.text_capacity:
            raise MemoryError(
                f"the cache has room for {self.text_capacity} tokens of text (text_capacity); it holds {self.text_tokens},"
                f" {added} more were given"
            )

    def cached(self) -> Pair:
        """Keys and values [B, Hkv, tokens, D] of all tokens: a copy where the text stands apart."""
        if self._text is None or not self.text_tokens:
            return self.keys, self.values
        text = [t[:, :, : self.text_tokens] for t in self._text]
        if not self.video_tokens:
            return text[0], text[1]
        return torch.cat([self.keys, text[0]], 2), torch.cat([self.values, text[1]], 2)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if self.text_tokens:
            raise ValueError(
                "this cache's text stands in a buffer of its own (VSTCache.attend): update() would lose its place"
            )
        return super().update(key_states, value_states, *args, **kwargs)

    def crop(self, max_length: int) -> None:
        fewer = -max_length if max_length <= 0 else max(0, self.get_seq_length() - max_length)
        if not self.text_tokens or fewer > self.text_tokens:
            return super().crop(max_length)
        self.text_tokens -= fewer

    def grow(self, capacity: int) -> None:
        """Buffers for `capacity` tokens; what is there is copied once."""
        self._capacity = capacity
        if self.video_tokens:
            self._buffers = None
            self.hold(self._room(self.video_tokens, 0, None, self.keys, self.values), self.video_tokens)

    def reset(self) -> None:
        self._text, self.text_tokens = None, 0
        super().reset()

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._map_text(lambda t: t.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._map_text(lambda t: t.index_select(0, indices.to(t.device)))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._map_text(lambda t: t.index_select(0, beam_idx.to(t.device)))

    def __copy__(self) -> "VSTLayer":
        """The copy shares the video, which only the original goes on to write; its text is its own."""
        if self.video_tokens > self.counts.cached:
            # Text behind the video may be taken back and written anew.
            self._buffers = None
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__ | {"_buffers": None}
        other._map_text(torch.clone)
        return other

    def _map_text(self, change: Any) -> None:
        if self._text is not None:
            key, value = (change(t) for t in self._text)
            self._text = key, value

    def _room(self, tokens: int, added: int, most: int | None, *like: Tensor) -> Pair:
        """The buffers, made once in their full size, with the tokens so far and room for `added` more."""
        self.check_room(added, *like)
        held = self._buffers
        if held is not None and self._serves(held, tokens + added):
            return held
        # Made under inference_mode they could be written there only.
        with torch.inference_mode(False):
            keys, values = (t.new_empty(*t.shape[:2], self._capacity, t.shape[-1]) for t in like)
        if tokens:
            keys[..., :tokens, :], values[..., :tokens, :] = self.keys, self.values
        self._buffers = keys, values
        return self._buffers

    def check_room(self, added: int, *like: Tensor) -> None:
        """MemoryError where `added` more tokens, like [B, Hkv, *, D] each, do not fit the capacity, or the buffers that they need
        the bytes."""
        tokens = self.video_tokens
        if tokens + added > self._capacity:
            raise MemoryError(
                f"the cache has room for {self._capacity} tokens (capacity); it holds {tokens}, {added} more would come:"
                " grow() makes room"
            )
        if self._buffers is None or not self._serves(self._buffers, tokens + added):
            self._check_bytes(self._size(self._capacity, tuple(t.transpose(1, 2) for t in like)), "capacity")

    def _serves(self, held: Pair, tokens: int) -> bool:
        return held[0].shape[-2] >= tokens and (not self.video_tokens or self._begins(held))

    def _begins(self, held: Pair) -> bool:
        return _begins(held[0], self.keys) and _begins(held[1], self.values)

    def _size(self, capacity: int, like: tuple[Tensor, ...]) -> int:
        return sum(t.shape[0] * t.shape[2] * t.shape[3] * t.element_size() * capacity for t in like)

    def _check_bytes(self, more: int, what: str) -> None:
        held = sum(_bytes(*pair) for pair in (self._text if what == "capacity" else self._buffers,) if pair is not None)
        if self.max_bytes is not None and held + more > self.max_bytes:
            raise MemoryError(
                f"max_bytes leaves a layer {self.max_bytes} bytes; {what} asks for {more} of them, {held} are taken"
            )
