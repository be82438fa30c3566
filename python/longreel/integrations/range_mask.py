"""RangeMask: what a model is given where others make a mask of rows x keys: sizes, lowered once a forward pass."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from longreel.integrations import packed
from longreel.integrations.bounded import narrowed, own_chunks
from longreel.integrations.mask_functions import MaskRule
from longreel.integrations.mask_sets import layout_of
from longreel.integrations.padding import Gap, check_same, spans
from longreel.integrations.steps import bounded_step_of, bounded_text_step_of, step_of
from longreel.layout import PlannedLayout, VideoLayout
from longreel.layout.context import InForce
from longreel.layout.documents import repeated, text_documents, without_first
from longreel.ops.common.layouts import planned

Layout = VideoLayout | PlannedLayout


class MaskError(ValueError, AttributeError):
    """A model computes with its mask itself."""


def _computed(what: str) -> MaskError:
    return MaskError(
        f"this model computes with its attention mask itself ({what}), and longreel attention makes none; give the model"
        " another, as attn_implementation='sdpa'"
    )


@dataclass(eq=False)
class RangeMask:
    """What the query rows of one forward pass may attend to, for all its layers: rows `place` .. place + queries of `keys` keys.

    place: where it lies on the device, as in a cache of fixed size, the host does not read it for a step of text.
    batch: samples. start: int32 [B], keys before start[b] are left padding; None: there is none. in_force: of `use_layout`, at
    the beginning of the pass. rule: of the model's own mask. dropped: keys before the first one, that a sliding cache let go.
    real: the 2-D mask that was given, bool [B, >= dropped + end]. gap: padding between what a cache holds and a shorter
    question, None: there is none.
    """

    batch: int
    queries: int
    keys: int
    place: int | Tensor
    start: Tensor | None
    in_force: InForce
    rule: MaskRule
    dropped: int = 0
    real: Tensor | None = None
    gap: Gap | None = None
    device: Any = None
    _plan: tuple[Any, PlannedLayout] | None = field(default=None, repr=False)
    # position_ids and layout that a layer of this pass found right
    checked: tuple[Any, ...] = field(default=(), repr=False)

    # To a model it is a mask [B, 1, Sq, Sk], as far as a model may only hand it on.
    ndim = 4
    dtype = torch.bool

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.batch, 1, self.queries, self.keys))

    def contiguous(self) -> "RangeMask":
        return self

    def to(self, *_: Any, **__: Any) -> "RangeMask":
        return self

    def __getitem__(self, index: Any) -> "RangeMask":
        """As models cut a mask to the keys that there are; nothing else."""
        parts = index if isinstance(index, tuple) else (index,)
        rest = [part for part in parts if part is not Ellipsis and part != slice(None)]
        last = len(rest) == 1 and parts[-1] is rest[0] and (Ellipsis in parts or len(parts) == 4)
        if not rest or (
            last and isinstance(rest[0], slice) and rest[0].start in (None, 0) and rest[0].step in (None, 1)
        ):
            end = self.keys if not rest or rest[0].stop is None else rest[0].stop
            if end >= self.end:
                return self
        rows = parts[2] if len(parts) == 4 and len(rest) == 1 and parts[2] is rest[0] else None
        if isinstance(rows, slice) and rows.stop is None and rows.step is None:
            # As Gemma 4 goes on with the last rows alone in layers that share keys.
            first = slice(*rows.indices(self.queries)).start
            return replace(self, queries=self.queries - first, place=self.place + first, _plan=None)
        raise _computed("it takes a part of it")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise _computed(getattr(function, "__name__", str(function)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_plan":
            raise AttributeError(name)
        raise _computed(f"it asks for .{name}")

    def _compute(self, *_: Any) -> Any:
        raise _computed("it compares or adds")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _compute
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __and__ = __rand__ = __or__ = __ror__ = _compute
    __invert__ = __neg__ = __len__ = __iter__ = __float__ = __int__ = __truediv__ = _compute
    __hash__ = object.__hash__

    @property
    def first(self) -> int:
        """The first row, read by the host."""
        return int(self.place)

    @property
    def end(self) -> int:
        """Of the rows, counted from the first key that there is."""
        return self.first + self.queries

    def plan(
        self,
        given: Layout | None,
        batch: int,
        device: torch.device,
        bounds: tuple[Tensor, Tensor | None] | None = None,
        positions: Tensor | None = None,
    ) -> PlannedLayout:
        """The plan of `given`, else of the layout in force, else of the model's own rows, for `batch` samples; made once a pass.

        bounds: cu_seq_lens_q and cu_seq_lens_k. positions: position_ids int [B, Sq].
        """
        layout = self.in_force.layout if given is None else given
        key = (layout, *(bounds or (None, None)), positions)
        if self._plan is None or any(a is not b for a, b in zip(self._plan[0], key, strict=True)):
            # Asked here: where this function falls out of a graph, what it calls may be a graph of its own.
            documents = self._documents(batch, bounds, positions, torch.compiler.is_compiling())
            self._plan = key, self._made(layout, batch, device, given is None, documents)
        return self._plan[1].to(device)

    def _documents(
        self, batch: int, bounds: tuple[Tensor, Tensor | None] | None, positions: Tensor | None, compiling: bool
    ) -> packed.Documents | None:
        """Lengths of the documents that the input names, and where they come from; None: it names none."""
        if compiling:
            if bounds is not None or self.rule.documents is not None:
                raise RuntimeError("packed documents under torch.compile: pass a planned VideoLayout.packed")
            return None
        if bounds is not None:
            return packed.Documents(packed.of_bounds(*bounds, batch, self.end), "cu_seq_lens_q")
        if self.rule.documents is not None:
            # Older versions do not put the positions into the mask function.
            own = positions if self.rule.positions is None else self.rule.positions
            return packed.Documents(packed.of_numbers(self.rule.documents), "position_ids", own)
        if positions is None or positions.ndim != 2 or self.queries == 1 or positions.shape[1] != self.queries:
            return None
        if not packed.told(positions, "position_ids"):
            return None
        real = None if self.real is None else self.real[:, self.dropped + self.first :][:, : self.queries]
        begins = packed.begins(positions, real)
        if not bool(begins.any()):
            return None
        begins[:, 0] = True
        return packed.Documents(
            packed.of_begins(begins),
            "position_ids",
            positions,
            refused=self.first > 0
            or real is not None
            or bool(positions.to("cpu")[:, 1:][begins[:, 1:]].any())
            or not packed.consecutive(positions, begins),
        )

    def _made(
        self, layout: Layout | None, batch: int, device: torch.device, grows: bool, documents: packed.Documents | None
    ) -> PlannedLayout:
        rule = self.rule
        if rule.function is not None:
            return self._evaluated(rule.function, layout, batch, device, documents)
        if rule.unread and layout is None:
            raise ValueError(
                "under torch.compile positions are not read: pass a planned layout, see VideoLayout.causal, .packed"
            )
        if isinstance(self.place, Tensor):
            alone = (layout, documents, self.gap) == (None,) * 3
            if alone and (step := self._step(None, batch, device)) is not None:
                return step
            self.place = int(self.place)
        window, chunk = bound = self._bound()
        if self.gap is not None and (layout is not None or bound != (None, None)):
            raise ValueError(
                "padding between what a cache holds and a question cannot be combined with a layout, a window or chunks"
            )
        if layout is not None:
            return self._under(layout, bound, batch, device, grows, documents)
        if documents is not None and documents.refused:
            raise ValueError(
                "position_ids begin anew where an attention_mask, a cache, a position other than 0 or one that repeats says one"
                " sequence; for packed documents give position_ids alone, each 0, 1, 2, ..., or a layout: VideoLayout.packed"
            )
        if documents is not None and chunk is not None:
            raise ValueError(f"packed documents cannot be combined with this model's own chunks of {chunk} rows")
        step = self._step(None, batch, device) if documents is None else None
        if step is not None:
            return step
        if self.gap is not None:
            return planned(self.gap.layout(self.keys).rows(self.first, self.end), device)
        if documents is not None:
            own = VideoLayout(tuple(text_documents(row, window) for row in documents.lengths))
        elif chunk is not None:
            own = own_chunks(self.dropped + self.end, chunk, rule.chunk_padding, batch, self.dropped)
        else:
            own = VideoLayout.causal(self.end) if window is None else VideoLayout.sliding_window(self.end, window)
        plan = planned(own.rows(self.first, self.end), device)
        return plan if self.start is None else plan.with_start(self.start.to(device))

    def _step(self, layout: Layout | None, batch: int, device: torch.device) -> PlannedLayout | None:
        """The plan where the pass is a step of text behind a cache."""
        rule = self.rule
        if layout is None and self.gap is None and (rule.window, rule.chunk) != (None, None):
            return bounded_step_of(rule, self.real, self.start, self.place, self.queries, self.dropped, device)
        return step_of(layout, self.gap, self.start, self.place, self.queries, batch, device)

    def _evaluated(
        self,
        function: Callable[..., Any],
        layout: Layout | None,
        batch: int,
        device: torch.device,
        documents: packed.Documents | None,
    ) -> PlannedLayout:
        """The plan of a mask that is more than causal rows under a window, chunks or documents."""
        rule = self.rule
        others = {
            "a layout": layout is not None,
            "padding behind what a cache holds": self.gap is not None,
            "packed documents": documents is not None and rule.documents is None,
        }
        if any(others.values()):
            raise ValueError(
                "this model's own mask shows rows other keys than those before them, which cannot be combined with"
                f" {next(other for other, given in others.items() if given)}"
            )
        real = spans(self.real, self.batch, self.dropped, self.end)
        own = layout_of(
            function, real, self.first, self.queries, self.keys, self.dropped, rule.vmap, self.device or device
        )
        return planned(repeated(own, batch).rows(self.first, self.end), device)

    def _bound(self) -> tuple[int | None, int | None]:
        """The model's own window and chunk, where they are shorter than the rows so far."""
        total = self.dropped + self.end
        window, chunk = (n if n is not None and n < total else None for n in (self.rule.window, self.rule.chunk))
        return window, chunk

    def _under(
        self,
        layout: Layout,
        bound: tuple[int | None, int | None],
        batch: int,
        device: torch.device,
        grows: bool,
        documents: packed.Documents | None,
    ) -> PlannedLayout:
        """The plan of a layout, inside the model's own window or chunks."""
        whole = layout.layout if isinstance(layout, PlannedLayout) else layout
        if documents is not None:
            documents.check(layout)
        elif bound == (None, None) and (step := self._step(layout, batch, device)) is not None:
            check_same(step.start, self.start, self.end)
            return step
        elif bound != (None, None) and (step := self._bounded_step(layout, whole, batch, device)) is not None:
            return step
        cut = self.dropped if bound != (None, None) and whole.window is None else 0
        if bound[1] is not None and isinstance(layout, PlannedLayout) and layout.start_given:
            raise ValueError(
                "chunks are counted from behind the padding, which is part of the layout: with_start is not"
            )
        rows = repeated(self._rows(whole, grows, bound, cut), batch)
        plan = (
            planned(rows, device) if rows is not whole or not isinstance(layout, PlannedLayout) else layout.to(device)
        )
        if isinstance(layout, PlannedLayout) and layout.start_given:
            start = layout.start if not cut else (layout.start - cut).clamp(min=0)
            plan = plan.with_start(start.to(device).repeat_interleave(rows.batch_size // whole.batch_size))
        check_same(plan.start, self.start, self.end)
        return plan

    def _bounded_step(
        self, layout: Layout, whole: VideoLayout, batch: int, device: torch.device
    ) -> PlannedLayout | None:
        """The plan where the pass is a step of text behind a layout of text, in the model's own window or chunks."""
        if isinstance(layout, PlannedLayout) and layout.start_given:
            return None
        step = bounded_text_step_of(self.rule, whole, self.first, self.queries, self.dropped, batch, device)
        if step is not None:
            check_same((torch.tensor(whole.start) - self.dropped).clamp(min=0), self.start, self.end)
        return step

    def _rows(self, layout: VideoLayout, grows: bool, bound: tuple[int | None, int | None], cut: int) -> VideoLayout:
        """The rows of `layout` that this pass computes, without the first `cut`; `grows`: text rows may follow what it says."""
        end = self.end + cut
        if layout.order != "position":
            raise ValueError("a grouped layout orders rows as no transformers model does; allowed: position order")
        if layout.window is not None or (end == layout.length and end == self.queries):
            begin = 0 if layout.window is None else layout.window[0]
            if (begin, begin + layout.queries) != (self.first, self.end):
                raise ValueError(
                    f"the layout is of rows {layout.window}, this forward pass computes {(self.first, self.end)}"
                )
            return narrowed(layout, *bound)
        if end > layout.length and self.first == 0 and not grows:
            raise ValueError(f"the layout has {layout.length} rows and the input {end}: they must be as many")
        grown = narrowed(layout.extend(max(0, end - layout.length)), *bound)
        return (without_first(grown, cut) if cut else grown).rows(self.first, self.end)
