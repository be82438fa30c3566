"""VoCoCache: of every frame the keys and values of its VoCo tokens only (VoCo-LLaMA, arXiv 2406.12275, two-stage inference)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from longreel._transformers import with_cache
from longreel.cache.compressed import Append, CompressedCache
from longreel.cache.saved import Counts
from longreel.cache.voco_layer import VoCoLayer, narrowed_to, staged
from longreel.layout import Segment, VideoLayout, kinds, positions
from longreel.layout.segments import PREFIX, VOCO

FORMAT = "longreel-voco-cache/2"
Mode = Literal["independent", "causal"]
PrefixVisibleTo = Literal["first", "frames", "all"]
Positions = Literal["compact", "absolute"]


_OPTIONS = ("mode", "prefix_visible_to", "text_sees_prefix", "positions")


def _from_version_1(header: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had the options beside the rest, `held` for counts, and no segments."""
    return {name: header[name] for name in ("format", "layers", "about")} | {
        "counts": {"hidden": 0} | header["held"],
        "options": {name: header[name] for name in _OPTIONS},
    }


@dataclass(frozen=True)
class VoCoCounts(Counts):
    """prefix, voco: tokens cached of each. frame_at: position of the next frame's first token."""

    prefix: int = 0
    voco: int = 0
    frame_at: int = 0

    @property
    def cached(self) -> int:
        return self.prefix + self.voco


@dataclass(frozen=True)
class VisionAppend(Append):
    """layout: of the tokens and what they attend to of the cache. positions: int32 [1, n]. keep: places of the tokens to cache.
    alone: they attend to nothing of the cache."""

    layout: VideoLayout
    positions: Tensor
    keep: Tensor
    alone: bool


class VoCoCache(CompressedCache):
    """The first of two stages, cached: frames run once, any number of questions are asked of what their VoCo tokens hold.

    ::

        cache = VoCoCache(model.config)
        cache.append(model.model, embeds, [("prefix", 1), ("vision", 576), ("text", 2), ("voco", 1)])
        answer = model.generate(**cache.question(ids), max_new_tokens=32)

    Segments of an `append`: at first "prefix" if there is any, then frames of "vision" (and "text", separators) that each
    end with "voco". Of all layers the VoCo tokens stay; a layer's other tokens are dropped as soon as it ran.

    Questions run on forks that share the cached tokens, with any attention implementation; only `append` needs "longreel".
    Text stands at the position after the last frame, as in the masked forward over everything, whose result it reproduces.

    Args:
        config: of the language model.
        mode: frames attend to themselves only ("independent"), or also the VoCo tokens of earlier frames ("causal"). No released
            checkpoint validates either; with one image there is no difference.
        prefix_visible_to: tokens before the first frame are visible to the "first" frame, all "frames", or "all": text too.
        text_sees_prefix: False is the released reading of the mask, True the paper's.
        positions: "compact" starts a frame at prefix + VoCo tokens before it, "absolute" counts tokens; the same for one image.
        max_bytes: that keys and values may take (see CompressedCache); more is refused before it is computed.
    """

    FORMAT = FORMAT
    OLDER: ClassVar = {"longreel-voco-cache/1": _from_version_1}
    OPTIONS = _OPTIONS
    COUNTS = VoCoCounts
    LAYER = VoCoLayer

    counts: VoCoCounts

    def __init__(
        self,
        config: PreTrainedConfig,
        *,
        mode: Mode = "independent",
        prefix_visible_to: PrefixVisibleTo = "first",
        text_sees_prefix: bool = False,
        positions: Positions = "compact",
        max_bytes: int | None = None,
    ) -> None:
        for name, value, allowed in (
            ("mode", mode, Mode), ("prefix_visible_to", prefix_visible_to, PrefixVisibleTo), ("positions", positions, Positions)
        ):  # fmt: skip
            if value not in get_args(allowed):
                raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, get_args(allowed)))}")
        if not isinstance(text_sees_prefix, bool):
            raise ValueError(f"text_sees_prefix={text_sees_prefix!r} is not True or False")
        self.mode, self.prefix_visible_to, self.positions = mode, prefix_visible_to, positions
        self.text_sees_prefix = text_sees_prefix or prefix_visible_to == "all"
        super().__init__(config, max_bytes=max_bytes)

    @property
    def held(self) -> VoCoCounts:
        """`counts`, by its name until 0.1.0."""
        return self.counts

    def _append_of(self, embeds: Tensor, segments: Sequence[tuple[str, int]]) -> VisionAppend:
        now, alone = self.counts, self._layout(segments)
        if embeds.shape[1] != alone.length:
            raise ValueError(f"the segments have {alone.length} tokens and embeds {embeds.shape[1]}")
        kind = kinds(alone)[0]
        if not len(kind) or kind[-1] != VOCO:
            raise ValueError("a vision stage ends with voco tokens: text is asked on a fork")
        if now.text_at and (kind == PREFIX).any():
            raise ValueError("a prefix stands before the first frame only")
        by_itself, whole = self.mode == "independent" and self.prefix_visible_to == "first", alone
        if not by_itself:
            both = self._layout([("prefix", now.prefix), ("voco", now.voco), *segments])
            whole = both.rows(now.cached, now.cached + alone.length)
        keep = np.flatnonzero((kind == VOCO) | ((kind == PREFIX) & self._caches_prefix))
        parts = tuple(segment for document in alone.samples[0] for segment in document.segments)
        return VisionAppend(
            counts=self._counts_after(now, parts),
            segments=parts,
            layout=whole,
            positions=torch.from_numpy(now.frame_at + positions(alone, self.positions)),
            keep=torch.from_numpy(keep).to(embeds.device),
            alone=by_itself,
        )

    def _run(self, decoder: Callable[..., Any], embeds: Tensor, append: VisionAppend, inputs: dict[str, Any]) -> None:
        with staged(self.layers, append.keep, append.alone), narrowed_to(decoder, self.layers, append.keep):
            decoder(
                inputs_embeds=embeds,
                position_ids=append.positions.to(embeds.device, torch.long),
                **with_cache(self),
                use_cache=True,
                video_layout=append.layout,
                **inputs,
            )

    def _counts_after(self, now: VoCoCounts, segments: Sequence[Segment]) -> VoCoCounts:
        """The counts once frames came behind `now`; segments whose VoCo tokens follow one another are frames of their own."""
        prefix, voco, begin, text_at, length = now.prefix, now.voco, now.frame_at, now.text_at, 0
        for segment in segments:
            if segment.kind == "prefix":
                begin += segment.length
                prefix += segment.length if self._caches_prefix else 0
            elif segment.kind != "padding":
                length += segment.length
            if segment.kind == "voco":
                voco, text_at = voco + segment.length, begin + length
                begin, length = begin + (segment.length if self.positions == "compact" else length), 0
        return VoCoCounts(text_at, now.hidden, prefix, voco, begin)

    def _counts_of(self, segments: Sequence[Segment]) -> VoCoCounts:
        if segments and segments[-1].kind != "voco":
            raise ValueError(f"a video ends with voco tokens, this one with {segments[-1].kind}")
        # Refuses segments in an order that is no video's.
        self._layout(segments)
        return self._counts_after(VoCoCounts(), segments)

    def _check(self, counts: VoCoCounts, segments: Sequence[Segment] | None) -> None:
        super()._check(counts, segments)
        if (
            bool(counts.voco) != bool(counts.text_at)
            or not counts.cached + counts.hidden <= counts.frame_at <= counts.text_at
        ):
            raise ValueError(f"there is no video that leaves {counts}")
        if self.positions == "absolute" and counts.frame_at != counts.text_at:
            raise ValueError(f"absolute positions go on where they are, {counts} does not")

    def _without_hidden(self, counts: VoCoCounts) -> VoCoCounts:
        hidden = 0 if self.text_sees_prefix else counts.prefix
        return replace(counts, prefix=counts.prefix - hidden, hidden=counts.hidden + hidden)

    @property
    def _caches_prefix(self) -> bool:
        return self.text_sees_prefix or self.prefix_visible_to != "first"

    def _layout(self, segments: Sequence[tuple[str, int] | Segment]) -> VideoLayout:
        return VideoLayout.of(
            segments,
            attention=self.mode,
            frames_see_prefix=self.prefix_visible_to != "first",
            text_sees_prefix=self.text_sees_prefix,
        )
