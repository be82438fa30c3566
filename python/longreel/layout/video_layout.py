"""VideoLayout: what a video sequence is made of, in O(segments). Everything else is derived from it, each in its file."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longreel.layout import blocks, build
from longreel.layout.build import Kinds, PrefixVisibleTo
from longreel.layout.device_planner import from_cu_seqlens
from longreel.layout.numbers import check_rows, integer
from longreel.layout.planned import PlannedLayout
from longreel.layout.schedule import Schedule
from longreel.layout.segments import Document, Rule, Segment, joined, whole


class Derived:
    """What is derived from a layout and yet a method of it. `longreel.layout` sets these when it has loaded them: they stand
    above the class, which imports none of them."""

    dense_mask: Callable[["VideoLayout"], NDArray[np.bool_]]
    plan: Callable[["VideoLayout", tuple[int, int], bool], Schedule]
    lowered_to: Callable[["VideoLayout", torch.device | str, tuple[int, int] | None], PlannedLayout]


derived = Derived()


@dataclass(frozen=True, repr=False)
class VideoLayout:
    """Samples, each a sequence of documents; equal and hashed by value.

    samples: per sample of the batch its documents, of one total length. A layout of one sample serves any batch.
    window: the query rows [a, b) of a decoding step; the keys are then the rows before b. None: all rows.
    order: query rows in "position" order, or "grouped": all other rows, then the VST rows. Keys stand in position order.
    """

    samples: tuple[tuple[Document, ...], ...]
    window: tuple[int, int] | None = None
    order: Literal["position", "grouped"] = "position"

    def __post_init__(self) -> None:
        # Documents without rows only where a sample has no other.
        some = (
            tuple(document for document in documents if document.length) or documents[:1] for documents in self.samples
        )
        object.__setattr__(self, "samples", tuple(some))
        lengths = {sum(document.length for document in documents) for documents in self.samples}
        if len(lengths) != 1:
            raise ValueError(
                f"the samples of a layout have one length, given {sorted(lengths) or 'no sample'}: VideoLayout.batch pads them"
            )
        check_rows(max(lengths))
        if self.order not in ("position", "grouped"):
            raise ValueError(f"order={self.order!r} is not one of 'position', 'grouped'")
        if self.window is not None:
            object.__setattr__(
                self, "window", tuple(integer(f"a bound of rows {self.window}", row) for row in self.window)
            )
        if self.window is not None and not 0 <= self.window[0] <= self.window[1] <= self.length:
            raise ValueError(f"rows {self.window} are not inside 0 .. {self.length}; extend(n) appends text rows")
        if self.order == "grouped" and any(
            d.rule.attention == "ranges" for documents in self.samples for d in documents
        ):
            raise ValueError("a grouped layout has causal documents alone: rows of blocks stand in position order")
        if self.window is not None and self.order == "grouped":
            raise ValueError("rows(a, b) of a grouped layout: chunks run one by one have layouts of their own")

    def __repr__(self) -> str:
        samples = "; ".join(build.summary(documents) for documents in self.samples[:4])
        more = "; ..." if self.batch_size > 4 else ""
        queries = "" if self.window is None else f", rows {self.window[0]} .. {self.window[1]}"
        return f"VideoLayout({self.batch_size} x {self.length} rows{queries}, {self.order} order: {samples}{more})"

    @classmethod
    def of(
        cls,
        segments: Sequence[tuple[str, int] | Segment],
        *,
        attention: str = "text",
        frames_see_prefix: bool = False,
        text_sees_prefix: bool = False,
    ) -> "VideoLayout":
        """One document from segments (kind, rows) with kinds "prefix", "text", "vision", "voco", "vst" (a chunk, see Segment);
        "padding" may stand first and last. `attention` and the flags: see Rule."""
        return cls((build.documents(segments, Rule(attention, frames_see_prefix, text_sees_prefix)),))  # type: ignore[arg-type]

    @classmethod
    def voco(
        cls,
        *,
        frames: int,
        vision: int,
        voco: int,
        text: int,
        prefix: int = 0,
        separator: int = 0,
        mode: Literal["independent", "causal"] = "independent",
        prefix_visible_to: PrefixVisibleTo = "first",
        text_sees_prefix: bool = False,
    ) -> "VideoLayout":
        """VoCo-LLaMA: `prefix` rows, then `frames` times [vision | separator | voco], then `text` rows.

        mode: a frame attends to itself only ("independent") or also the VoCo rows of earlier frames ("causal"). One frame is the
        released image mask. No released checkpoint validates either video mode.
        prefix_visible_to: the rows of the "first" frame, of all "frames", or of "all": frames and text.
        text_sees_prefix: False is the released rule, True the paper's.
        """
        return cls(
            ((build.voco(frames, vision, voco, text, prefix, separator, mode, prefix_visible_to, text_sees_prefix),),)
        )

    @classmethod
    def vst(
        cls,
        *,
        visual: int | None = None,
        chunk: int = 1440,
        ratio: int | Sequence[tuple[int, int]] | None = None,
        ratio_mix: Sequence[int] | None = None,
        draw: str = "step-random",
        seed: int | np.random.Generator = 42,
        max_positions: int = 32768,
        prefix: int = 0,
        text: int = 0,
    ) -> "VideoLayout":
        """Video-XL: `prefix` rows, `visual` tokens in chunks of `chunk` with a VST row after every `ratio`, `text` rows.

        ratio: one for all chunks, or the chunks themselves as (visual tokens, ratio).
        ratio_mix: ratios to draw from; draw, seed, max_positions: see `RatioDraw`.
        """
        return cls(((build.vst(visual, chunk, ratio, ratio_mix, draw, seed, max_positions, prefix, text),),))

    @classmethod
    def from_kinds(
        cls,
        kinds: Kinds,
        *,
        mode: Literal["image", "independent", "causal"] = "image",
        frames_see_prefix: bool = False,
        text_sees_prefix: bool = False,
    ) -> "VideoLayout":
        """From token kinds [B, S], a tensor or array: 0 padding (before and after a sample), 1 text, 2 vision, 3 VoCo.

        "image" is the released rule for any number of VoCo groups; a sample without VoCo is causal.
        """
        rule = Rule(mode, frames_see_prefix, text_sees_prefix)
        return cls(tuple(build.from_kinds(row, rule) for row in build.checked_kinds(kinds)))

    @classmethod
    def causal(cls, n: int) -> "VideoLayout":
        """`n` text rows, each of which attends to itself and all before it."""
        return cls(((Document(joined([whole(("text", n))]), Rule("text")),),))

    @classmethod
    def sliding_window(cls, n: int, window: int, sinks: int = 0) -> "VideoLayout":
        """`n` text rows: each attends to the last `window` rows, itself included, and the first `sinks` rows."""
        return cls(((Document(joined([whole(("text", n))]), Rule("text", window=window, sinks=sinks)),),))

    @classmethod
    def blocks(
        cls, ids: blocks.Ids, *, window: int | None = None, chunk: int | None = None, causal: bool = True
    ) -> "VideoLayout":
        """Rows of one block attend to one another in both directions, as picture tokens of Gemma, PaliGemma and Molmo2 do.

        ids: int [S] or [B, S], on the host: rows of one number from 0 on are a block, wherever they stand; below 0 is none.
        causal: every row also attends to all rows before it; False: its block alone, and rows of none attend to nothing.
        window: inside the last `window` rows, itself included, and those behind it (without `causal`: as many on both sides).
        chunk: inside the row's own chunk of so many rows. Both cut blocks too. Appended rows are text.

        Raises:
            TwoRanges: a ValueError; parts of one block stand among parts of another, or two ranges a row do not hold it.
        """
        return cls(blocks.blocks(ids, window, chunk, causal))

    @classmethod
    def from_mask(
        cls,
        mask_function: Callable[..., Any],
        length: int,
        *,
        batch: int = 1,
        device: torch.device | str = "cpu",
        vmap: bool = False,
    ) -> "VideoLayout":
        """From a mask function of transformers or FlexAttention, f(b, h, q, k) -> bool, True = row q attends to key k.

        Ranges are found by O(N log N) probes of pairs, head 0, checked at all their ends and on random pairs. vmap: for a
        function that takes single numbers; else it gets int64 [n] each, on `device`.

        Raises:
            TwoRanges: a ValueError; a range of keys and one of global keys do not hold what a row attends to.
        """
        return cls(blocks.from_mask(mask_function, length, batch, device, vmap))

    @staticmethod
    def from_cu_seqlens(
        cu_seqlens: Tensor,
        rows: int,
        *,
        causal: bool = False,
        window: int | None = None,
        tile: tuple[int, int] | None = None,
    ) -> PlannedLayout:
        """Planned on the device of cu_seqlens int [n + 1]: sequence i is rows cu_seqlens[i] .. cu_seqlens[i + 1] of `rows`, and
        attends to itself in both directions, or causally. On a GPU nothing is read by the host, so no value is checked. Rows
        behind the last sequence attend to nothing.

        window: inside |q - k| < window (`causal`: the last `window` rows). tile None is the one of the device's kernels.
        """
        return from_cu_seqlens(cu_seqlens, rows, causal, window, tile)

    @classmethod
    def packed(cls, layouts: Sequence["VideoLayout"]) -> "VideoLayout":
        """Documents of several layouts of one sample behind one another; none attends to another."""
        layouts = cls._listed(layouts, "packed")
        return cls((tuple(document for layout in layouts for document in layout._one_sample("packed")),))

    @classmethod
    def batch(cls, layouts: Sequence["VideoLayout"], side: Literal["left", "right"] = "left") -> "VideoLayout":
        """Layouts of one sample as the samples of one, padded on `side` to the longest."""
        if side not in ("left", "right"):
            raise ValueError(f"side={side!r} is not one of 'left', 'right'")
        layouts = cls._listed(layouts, "batch")
        longest = max((layout.length for layout in layouts), default=0)
        samples = []
        for layout in layouts:
            documents, pad = layout._one_sample("batch"), build.padding(longest - layout.length)
            samples.append(build.with_padding(pad, documents) if side == "left" else (*documents, *pad))
        return cls(tuple(samples))

    @classmethod
    def _listed(cls, layouts: object, what: str) -> list["VideoLayout"]:
        if not isinstance(layouts, Iterable):
            raise TypeError(f"VideoLayout.{what} takes a list of layouts; given a {type(layouts).__name__}")
        listed = list(layouts)
        for layout in listed:
            if not isinstance(layout, cls):
                raise TypeError(f"VideoLayout.{what} takes a list of layouts; a {type(layout).__name__} is among them")
        return listed

    def _one_sample(self, what: str) -> tuple[Document, ...]:
        if self.batch_size != 1 or self.window is not None or self.order != "position":
            raise ValueError(f"VideoLayout.{what} takes whole layouts of one sample in position order")
        return self.samples[0]

    @property
    def batch_size(self) -> int:
        return len(self.samples)

    @property
    def length(self) -> int:
        """Rows of a sample, padding included."""
        return sum(document.length for document in self.samples[0])

    @property
    def queries(self) -> int:
        """Query rows Sq."""
        return self.length if self.window is None else self.window[1] - self.window[0]

    @property
    def keys(self) -> int:
        """Keys Sk that the layout expects; a cache may hold more."""
        return self.length if self.window is None else self.window[1]

    @property
    def start(self) -> tuple[int, ...]:
        """Rows of left padding of every sample."""
        return tuple(build.leading_padding(documents) for documents in self.samples)

    def rows(self, a: int, b: int) -> "VideoLayout":
        """The query rows a .. b over the keys before b: a step of prefill or decoding. `extend` first where b is new."""
        return replace(self, window=(a, b))

    def extend(self, n: int) -> "VideoLayout":
        """`n` more text rows at the end of every sample's last document."""
        samples = tuple((*documents[:-1], documents[-1].extended(n)) for documents in self.samples)
        return replace(self, samples=samples, window=None)

    def grouped(self) -> "VideoLayout":
        """The same keys, query rows grouped [all others | VST]."""
        return replace(self, order="grouped")

    def dense_mask(self) -> NDArray[np.bool_]:
        """bool [B, Sq, Sk], True = visible; refuses large layouts, for tests and pictures."""
        return derived.dense_mask(self)

    def plan(self, tile: tuple[int, int] = (128, 64), bounds: bool = True) -> Schedule:
        """The tile schedule for query tiles of tile[0] rows and key tiles of tile[1] keys, as numpy arrays."""
        return derived.plan(self, tile, bounds)

    def to(self, device: torch.device | str, tile: tuple[int, int] | None = None) -> PlannedLayout:
        """Planned on the host, now, as int32 tensors on `device`: what the ops take under compile and capture. `tile` None
        is the one that the device's kernels are made for."""
        return derived.lowered_to(self, device, tile)
