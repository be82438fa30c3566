"""VSTCache: of a video the keys and values of its VST tokens only (Video-XL, arXiv 2409.14485)."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from longreel.cache.compressed import CompressedCache
from longreel.cache.vst_layer import VSTLayer
from longreel.cache.vst_step import Step, TextStep, VSTCounts, counts_after, inverse_frequencies
from longreel.layout import Document, Rule, Segment, VideoLayout, positions
from longreel.layout.segments import chunk_of, chunk_segment
from longreel.ops._vst_append_ import vst_append_
from longreel.ops._vst_attention import vst_attention
from longreel.ops._vst_rotate import vst_rotate
from longreel.ops.common.layouts import planned
from longreel.rotary import rotary_tables

FORMAT = "longreel-vst-cache/2"


def _check_tokens(name: str, value: object) -> None:
    if type(value) is not int or value < 0:
        raise ValueError(f"{name}={value!r} is not a number of tokens")


def _from_version_1(header: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had no frequencies: they were those of the configuration."""
    return header | {"options": {"inv_freq": None} | header["options"]}


class VSTCache(CompressedCache):
    """A video's memory: prefix and VST tokens, each at its final rotation. Chunks run once, questions are asked of forks.

    ::

        cache = VSTCache(model.config, capacity=14 + 103 * 180, text_capacity=2048)
        cache.append(decoder, prefix_embeds, [("prefix", 14)])
        for chunk in chunks:  # embeds grouped [raw | VST]
            cache.append(decoder, chunk, cache.chunks([(1440, 8)]))
        question = cache.fork()  # shares the video

    A decoder's attention layers call ``past_key_values.attend(layer, q, k, v)`` with projected, unrotated rows, for chunks and
    for text alike; `append` runs one or many chunks at once, with the same result. Its `capacity` is all that is ever
    allocated for the video: nothing is concatenated, rotated twice, or expanded over heads. Timestamps and the like are saved
    with ``save(path, about={...})``.

    Args:
        config: of the language model.
        capacity: prefix and VST tokens that there is room for.
        text_capacity: tokens of text that a fork has room for.
        inv_freq: float32 ``[D/2]``, the model's (``rotary_emb.inv_freq``); None: from the configuration's default rotary.
            They are saved with the cache, whose text goes on at the same ones.
        max_bytes: that keys and values may take (see CompressedCache); buffers that would take more are not made.
    """

    FORMAT = FORMAT
    OLDER: ClassVar = {"longreel-vst-cache/1": _from_version_1}
    OPTIONS: ClassVar = ("capacity", "text_capacity", "inv_freq")
    COUNTS = VSTCounts
    LAYER = VSTLayer

    counts: VSTCounts

    def __init__(
        self,
        config: PreTrainedConfig,
        *,
        capacity: int,
        text_capacity: int = 2048,
        inv_freq: Tensor | Sequence[float] | None = None,
        max_bytes: int | None = None,
    ) -> None:
        for name, value in (("capacity", capacity), ("text_capacity", text_capacity)):
            _check_tokens(name, value)
        self._step: Step | None = None
        self._lengths: tuple[Tensor, Tensor] | None = None
        self._tables: tuple[Tensor, Tensor] | None = None
        super().__init__(config, max_bytes=max_bytes)
        self.capacity, self.text_capacity = capacity, text_capacity
        for layer in self.layers:
            layer._capacity = capacity
        if inv_freq is None:
            inv_freq = inverse_frequencies(config, self.head_dim)
        elif not isinstance(inv_freq, Tensor):
            inv_freq = torch.tensor([float(each) for each in inv_freq])
        if inv_freq.shape != (self.head_dim // 2,):
            raise ValueError(
                f"inv_freq is [{self.head_dim // 2}] for heads of {self.head_dim}; given {list(inv_freq.shape)}"
            )
        # A copy: what is cached was rotated by it, and what comes must be.
        self._inv_freq = inv_freq.detach().clone()

    @property
    def inv_freq(self) -> Tensor:
        """A copy: one cache has one rotation, and tables that are made of it once."""
        return self._inv_freq.clone()

    @property
    def text_capacity(self) -> int:
        """Tokens of text that a fork has room for; set before there is text."""
        return self._text_capacity

    @text_capacity.setter
    def text_capacity(self, tokens: int) -> None:
        _check_tokens("text_capacity", tokens)
        if any(layer._text is not None for layer in self.layers):
            raise ValueError("text_capacity is set before there is text in the cache")
        self._text_capacity = tokens
        for layer in self.layers:
            layer.text_capacity = tokens

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"inv_freq": self.inv_freq.tolist()}

    def planned_bytes(self, batch: int, dtype: torch.dtype, text: bool = False) -> int:
        """Bytes of the buffers for the video, or those for the `text` of a fork, in all layers; exactly what is allocated."""
        tokens = self.text_capacity if text else self.capacity
        return 2 * len(self.layers) * batch * self.heads * self.head_dim * tokens * dtype.itemsize

    @property
    def allocated(self) -> int:
        """Bytes of the buffers that this cache made."""
        return sum(layer.allocated for layer in self.layers)

    def chunks(self, chunks: Sequence[tuple[int, int]]) -> tuple[Any, ...]:
        """Segments for the next chunks (visual tokens, ratio), as `append` takes them."""
        segments, carry = [], self.counts.carry
        for visual, ratio in chunks:
            segments.append(chunk_segment(visual, ratio, carry))
            chunk = chunk_of(segments[-1])
            if not chunk.vst:
                raise ValueError(
                    f"a chunk of {visual} visual tokens has no VST at ratio {ratio}: nothing of it would stay"
                )
            carry = chunk.carry_out
        return tuple(segments)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, backend: str | None = None) -> Tensor:
        """One layer's attention of new rows, which are cached on the way. For inference.

        Args:
            layer: its index; the first begins a step, the last ends it.
            q, k, v: ``[B, R, H, D]``, ``[B, R, Hkv, D]``, projected, not rotated: inside `append` the rows of its segments
                grouped ``[prefix, raw | VST]``, else text.
            backend: of the ops.

        Returns:
            ``[B, R, H, D]``, in the order of q.

        Raises:
            MemoryError: the rows do not fit. ValueError: they are not those of the step.
        """
        step, own = self._step, self.layers[layer]
        if step is None or isinstance(step, TextStep):
            return self._attend_text(layer, q, k, v, backend)
        rotated = vst_rotate(q, k, v, step.cos, step.sin, step.plan, backend=backend)
        prefix, vst = step.cached
        rows = slice(0, prefix) if not vst else slice(k.shape[1] - vst, None)
        new = [t[:, rows] if not (prefix and vst) else torch.cat([t[:, :prefix], t[:, rows]], 1) for t in (k, v)]
        memory = own.memory(prefix + vst, k, v)
        length, _ = self._length_tensors(k)
        (mem_k, mem_v), (new_k, new_v), (cos, sin) = memory, new, self._angles(k, self.capacity)
        vst_append_(mem_k, mem_v, length, new_k, new_v, cos, sin, backend=backend)
        q, k, v = rotated
        out: Tensor = vst_attention(q, k, v, mem_k, mem_v, length, step.plan, backend=backend)
        own.hold(memory, own.video_tokens + prefix + vst)
        return out

    def _attend_text(self, layer: int, q: Tensor, k: Tensor, v: Tensor, backend: str | None) -> Tensor:
        own, rows, video = self.layers[layer], q.shape[1], self.tokens
        if own.video_tokens != video:
            raise ValueError("this cache's text stands behind its video (update): attend() would lose its place")
        length, text_length = self._length_tensors(k)
        own.check_text(rows)
        step = self._step
        if layer == 0 or not isinstance(step, TextStep) or step.plan.bounds.shape[1] != rows:
            at = text_length[:, None] + torch.arange(rows, device=k.device, dtype=torch.int32)
            cos, sin = (t[video:][at] for t in self._angles(k, video + self.text_capacity))
            plan = planned(VideoLayout.causal(rows), k.device)
            self._step = step = TextStep(self.counts, (), plan, cos, sin, (0, 0), at[0].long())
        q, k, v = vst_rotate(q, k, v, step.cos, step.sin, step.plan, backend=backend)
        text_k, text_v = own.text(rows, k, v)
        # All samples have as much text, so that PyTorch writes it: less host time than an op of ours.
        text_k.index_copy_(2, step.slots, k.transpose(1, 2))
        text_v.index_copy_(2, step.slots, v.transpose(1, 2))
        mem_k, mem_v = (own.keys, own.values) if video else (text_k[:, :, :0], text_v[:, :, :0])
        out: Tensor = vst_attention(
            q,
            text_k.transpose(1, 2),
            text_v.transpose(1, 2),
            mem_k,
            mem_v,
            length,
            step.plan,
            k_before=text_length,
            backend=backend,
        )
        if layer == len(self.layers) - 1:
            # All at once: a step that fails half-way leaves every layer as it was.
            text_length += rows
            for each in self.layers:
                each.text_tokens += rows
            self._step = None
        return out

    def grow(self, capacity: int | None = None) -> None:
        """Room for `capacity` tokens of video, None: for twice as many. What is there is copied once.

        Raises:
            ValueError: it has more. MemoryError: it would take more than `max_bytes`.
        """
        capacity = 2 * self.capacity if capacity is None else capacity
        if capacity < self.capacity:
            raise ValueError(f"the cache has room for {self.capacity} tokens: it does not shrink to {capacity}")
        with self._unchanged_on_error():
            for layer in self.layers:
                layer.grow(capacity)
        self.capacity = capacity

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """transformers' way of caching text: one layer's rows behind what it holds, all of which is returned."""
        if layer_idx == 0:
            # A step that failed half-way left some layers ahead.
            for layer in self.layers:
                if layer.tokens > self.layers[-1].tokens:
                    layer.crop(self.get_seq_length() - layer.get_seq_length())
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions so far, by the last layer: a step that failed half-way does not count."""
        return int(self.layers[-1].get_seq_length())

    def append(self, decoder: Callable[..., Any], embeds: Tensor, segments: Sequence[Any], **inputs: Any) -> None:
        """See CompressedCache. An `attention_mask` among the inputs may mask nothing: chunks have no padding."""
        mask = inputs.get("attention_mask")
        if isinstance(mask, Tensor) and not bool(mask.bool().all()):
            raise ValueError("attention_mask masks tokens of a chunk: chunks have no padding, give other lengths")
        super().append(decoder, embeds, segments, **inputs)

    def _check_room(self, embeds: Tensor, tokens: int) -> None:
        super()._check_room(embeds, tokens)
        like = embeds.new_empty(embeds.shape[0], self.heads, 0, self.head_dim, dtype=self._dtype_for(embeds))
        for layer in self.layers:
            layer.check_room(tokens - self.tokens, like, like)

    def _append_of(self, embeds: Tensor, segments: Sequence[Any]) -> Step:
        now = self.counts
        parts = tuple(Segment(*segment) for segment in segments)
        document = Document(parts, Rule("vst", True, True))
        layout = VideoLayout(((document,),)).grouped()
        if embeds.shape[1] != layout.length:
            raise ValueError(f"the segments have {layout.length} tokens and embeds {embeds.shape[1]}")
        counts = counts_after(now, document.segments)
        device, cached = embeds.device, (counts.prefix - now.prefix, counts.vst - now.vst)
        at = torch.from_numpy(now.cached + positions(layout)[0]).to(device)
        cos, sin = rotary_tables(self._inv_freq.to(device), at)
        return Step(counts, document.segments, planned(layout, device), cos, sin, cached)

    def _run(self, decoder: Callable[..., Any], embeds: Tensor, step: Step, inputs: dict[str, Any]) -> None:
        self._step = step
        try:
            decoder(inputs_embeds=embeds, past_key_values=self, use_cache=True, **inputs)
        finally:
            self._step = None

    def _counts_of(self, segments: Sequence[Segment]) -> VSTCounts:
        return counts_after(VSTCounts(), segments)

    def _set(self, counts: Any) -> None:
        super()._set(counts)
        self._lengths, self._step = None, None

    def __copy__(self) -> "VSTCache":
        other = super().__copy__()
        other._lengths, other._step = None, None
        return other

    def crop(self, max_length: int) -> None:
        super().crop(max_length)
        self._lengths, self._step = None, None

    def _length_tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [B] each on the device: tokens of the video, and of text, before the step."""
        batch, device = like.shape[0], like.device
        if self._lengths is None or self._lengths[0].shape[0] != batch or self._lengths[0].device != device:
            with torch.inference_mode(False):
                self._lengths = tuple(  # type: ignore[assignment]
                    torch.full((batch,), n, dtype=torch.int32, device=device)
                    for n in (self.tokens, self.layers[-1].text_tokens)
                )
        assert self._lengths is not None
        return self._lengths

    def _angles(self, like: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """cos and sin [at least count, D/2] of all positions, on the device."""
        if self._tables is None or self._tables[0].shape[0] < count or self._tables[0].device != like.device:
            with torch.inference_mode(False):
                self._tables = rotary_tables(
                    self._inv_freq.to(like.device), max(count, self.capacity + self.text_capacity)
                )
        return self._tables
