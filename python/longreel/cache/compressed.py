"""What caches of compressed video share: append or stay as it was, forks for questions, a hard cap in bytes, files."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from longreel._transformers import with_cache
from longreel.cache.buffered import BufferedLayer
from longreel.cache.saved import Counts, SavedCache
from longreel.layout import Segment


@dataclass(frozen=True)
class Append:
    """An `append`, checked, before anything is computed; a subclass adds what its `_run` needs.

    counts: once it ran. segments: those that have tokens.
    """

    counts: Any
    segments: tuple[Segment, ...]


class CompressedLayer(BufferedLayer):
    """Keys and values [B, Hkv, tokens, D]. To transformers the cache is as long as the positions it spans, and its first
    tokens are dropped, as those of a sliding window are."""

    counts: Counts
    # Of the model's own window or chunks, which count keys from the end; None: it has none.
    window: int | None = None

    @property
    def dropped(self) -> int:
        return self.counts.text_at - self.counts.cached

    def get_seq_length(self) -> int:
        return self.dropped + self.tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        length = self.get_seq_length() + query_length
        if self.window is not None and self.dropped and length > self.window:
            raise ValueError(
                f"the model's own window or chunks of {self.window} rows end inside these {length} positions, of which the cache"
                " dropped some: allowed are as many as the window has"
            )
        return self.tokens + query_length, self.dropped

    def crop(self, max_length: int) -> None:
        """Keep text up to position `max_length`; where it is negative, or 0: that many text tokens fewer.

        Raises:
            ValueError: more than the text would go.
        """
        fewer = -max_length if max_length <= 0 else max(0, self.get_seq_length() - max_length)
        text = self.tokens - self.counts.cached
        if fewer > text:
            raise ValueError(f"crop takes text away: {fewer} tokens are to go, the cache holds {text} of text")
        if fewer:
            self.keys, self.values = (t[..., : t.shape[-2] - fewer, :] for t in (self.keys, self.values))


class CompressedCache(SavedCache):
    """A video's tokens, compressed once; any number of questions are asked of forks. The base of caches, not one itself.

    A subclass names its layers' class LAYER and what SavedCache asks for, and says what an `append` will leave (`_append_of`),
    runs it (`_run`), and what a list of segments must have left (`_counts_of`).

    Args:
        config: of the language model.
        max_bytes: that keys and values may take, buffers and the text of a fork included; None: as much as there is. A fork
            has this limit for itself, and the tokens that it shares count there too.
    """

    LAYER: ClassVar[type[CompressedLayer]] = CompressedLayer

    def __init__(self, config: PreTrainedConfig, *, max_bytes: int | None = None) -> None:
        if max_bytes is not None and (type(max_bytes) is not int or max_bytes < 0):
            raise ValueError(f"max_bytes={max_bytes!r}: allowed is a whole number of bytes, or None")
        text = config.get_text_config()
        self.heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        self.head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.max_bytes, self.segments = max_bytes, ()
        count = text.num_hidden_layers
        share = None if max_bytes is None else max_bytes // count
        super().__init__(layers=[self.LAYER(max_bytes=share) for _ in range(count)])
        for layer in self.layers:
            layer.window = _own_window(text)
        self._set(self.COUNTS())

    @property
    def tokens(self) -> int:
        """Tokens cached of the video and what stands before it."""
        return self.counts.cached

    # Its name until 0.1.0.
    rows = tokens

    @property
    def length(self) -> int:
        """Position of the next text token: what the cache counts as its length."""
        return self.counts.text_at

    @property
    def batch(self) -> int:
        """Samples; 1 as long as it is empty."""
        return int(self.layers[0].keys.shape[0]) if self.layers[0].tokens else 1

    @property
    def nbytes(self) -> int:
        """Bytes of all tokens cached, in keys and values of every layer."""
        return sum(layer.nbytes for layer in self.layers)

    @torch.no_grad()
    def append(
        self, decoder: Callable[..., Any], embeds: Tensor, segments: Sequence[tuple[str, int]], **inputs: Any
    ) -> None:
        """Run more of the video through the decoder, and cache what is compressed of it.

        Args:
            decoder: the transformers decoder without its head (`model.model`), with ``attn_implementation="longreel"``.
            embeds: ``[B, n, H]``, embeddings of the tokens; a batch shares one structure.
            segments: (kind, tokens) in order, n tokens in all.
            inputs: more keywords for the decoder.

        Raises:
            ValueError: the segments are not such a piece of video or do not have n tokens; a question was asked of this very
                cache; the decoder has another attention, or keeps nothing; the batch is another.
            MemoryError: it would take more than `max_bytes`; nothing was computed. In every case the cache is as it was.
        """
        given = getattr(getattr(decoder, "config", None), "_attn_implementation", "longreel")
        if given != "longreel":
            raise ValueError(f"attn_implementation={given!r} takes no layout; a vision stage needs 'longreel'")
        if embeds.dim() != 3:
            raise ValueError(f"embeds is [B, n, H]; given {list(embeds.shape)}")
        append = self._append_of(embeds, segments)
        if self.tokens and embeds.shape[0] != self.batch:
            raise ValueError(f"the cache holds {self.batch} samples and embeds {embeds.shape[0]}")
        if any(layer.tokens != self.tokens for layer in self.layers):
            raise ValueError("frames are appended to a cache without text: ask questions on forks of it")
        if self.counts.hidden:
            raise ValueError(
                "frames are appended to the cache itself: this fork left out the prefix that they attend to"
            )
        self._check_room(embeds, append.counts.cached)
        with self._unchanged_on_error():
            self._run(decoder, embeds, append, inputs)
            if any(layer.tokens != append.counts.cached for layer in self.layers):
                raise ValueError(
                    "the decoder added no tokens to the cache: in training with gradient checkpointing transformers takes none;"
                    " a vision stage runs after eval()"
                )
        self._set(append.counts)
        if self.segments is not None:
            self.segments += append.segments

    def fork(self, repeats: int = 1) -> Self:
        """A cache for one question: it shares the tokens that text attends to, and what is added to it stays its own.

        repeats: how often each sample stands in a row, for beams or several answers.
        """
        other, counts = copy(self), self._without_hidden(self.counts)
        hidden = counts.hidden - self.counts.hidden
        for layer in other.layers if hidden else ():
            layer.keys, layer.values = layer.keys[..., hidden:, :], layer.values[..., hidden:, :]
        other._set(counts)
        if repeats > 1:
            other.batch_repeat_interleave(repeats)
        return other

    def question(self, ids: Tensor, beams: int = 1, mask: Tensor | None = None, answers: int = 1) -> dict[str, Any]:
        """What `generate` takes for questions ids [B, T] about this cache: the ids, a fork, and a mask of all positions.

        Questions of one batch are asked of as many samples, or all of the only one. mask: [B, T], zero where a shorter
        question is padded on its left. answers: of each question (`num_return_sequences`).

        Raises:
            ValueError: the cache has another number of samples, or a question is padded on its right.
        """
        batch, own = ids.shape[0], self.batch
        if own not in (1, batch):
            raise ValueError(f"{batch} questions for a cache of {own} samples: allowed is one for each, or one sample")
        asked = torch.ones_like(ids) if mask is None else mask.to(ids.device, torch.long)
        if not bool(asked[:, -1].all()):
            raise ValueError("a question is padded on its right: shorter questions are padded on the left")
        before = asked.new_ones(batch, self.length)
        several = {name: n for name, n in (("num_beams", beams), ("num_return_sequences", answers)) if n > 1}
        fork = self.fork(max(beams, answers) * batch // own)
        return {"input_ids": ids, "attention_mask": torch.cat([before, asked], 1)} | with_cache(fork) | several

    def reset(self) -> None:
        """As new."""
        super().reset()
        self.segments = ()
        self._set(self.COUNTS())

    def __copy__(self) -> Self:
        """The copy shares the tokens, and what is added to either stays its own."""
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__ | {"layers": [copy(layer) for layer in self.layers]}
        return other

    def _check_room(self, embeds: Tensor, tokens: int) -> None:
        """MemoryError where so many tokens would take more than `max_bytes`."""
        if self.max_bytes is None:
            return
        each = 2 * len(self.layers) * embeds.shape[0] * self.heads * self.head_dim * self._dtype_for(embeds).itemsize
        if each * tokens > self.max_bytes:
            raise MemoryError(
                f"the cache may take {self.max_bytes} bytes (max_bytes): room for {self.max_bytes // each} tokens of {each} bytes"
                f" in all layers; it holds {self.tokens}, {tokens - self.tokens} more would come"
            )

    def _dtype_for(self, embeds: Tensor) -> torch.dtype:
        """Of the keys and values that these embeddings become, or of those that are there."""
        if self.tokens:
            own: torch.dtype = self.layers[0].keys.dtype
            return own
        kind = embeds.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else embeds.dtype

    @contextmanager
    def _unchanged_on_error(self) -> Iterator[None]:
        before = [layer.snapshot() for layer in self.layers]
        try:
            yield
        except BaseException:
            for layer, state in zip(self.layers, before, strict=True):
                layer.restore(state)
            raise

    def _append_of(self, embeds: Tensor, segments: Sequence[tuple[str, int]]) -> Any:
        """The Append of these segments; ValueError where they are none, or are not embeds' tokens."""
        raise NotImplementedError

    def _run(self, decoder: Callable[..., Any], embeds: Tensor, append: Any, inputs: dict[str, Any]) -> None:
        """Run an Append through the decoder, which leaves its tokens in the layers."""
        raise NotImplementedError


def _own_window(config: Any) -> int | None:
    """The rows of the window or chunks that any layer of a model has."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and not any(kind.startswith(("sliding", "chunked")) for kind in kinds):
        return None
    sizes = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((size for size in sizes if size), default=None)
