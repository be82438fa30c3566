"""``attn_implementation="longreel"``: block_sparse_attention in transformers' decoders. Importing this module registers it.

The layout comes with ``forward(..., video_layout=layout)`` or ``with longreel.use_layout(layout):``. Without one, rows see what
is before them and is not padding. No mask of rows x keys is made: what the mask interface hands to the layers is a `RowsSeen`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from longreel.layout import PlannedLayout, VideoLayout
from longreel.layout.context import InForce, in_force
from longreel.ops._block_sparse_attention import block_sparse_attention
from longreel.ops.common.layouts import planned

NAME = "longreel"
Layout = VideoLayout | PlannedLayout

# Keywords of an attention call that leave its result alone; any other that is set is refused.
_HARMLESS = {
    "position_ids",
    "use_cache",
    "num_items_in_batch",
    "output_hidden_states",
    "output_router_logits",
    "return_dict",
}


@dataclass(eq=False)
class RowsSeen:
    """What the query rows of one forward pass may see, for all its layers: rows `first` .. first + queries of `keys` keys.

    start: int32 [B], keys before start[b] are left padding; None: there is none. gap: padding between what a cache holds and
    a shorter question, None: there is none. in_force: of `use_layout`, at the beginning of the pass. packed: positions begin
    anew, which only a layout explains. objection: why nothing explains it.
    """

    queries: int
    keys: int
    first: int
    start: Tensor | None
    in_force: InForce
    packed: bool = False
    objection: str | None = None
    gap: "Gap | None" = None
    _plan: tuple[Layout | None, PlannedLayout] | None = field(default=None, repr=False)

    def contiguous(self) -> "RowsSeen":
        """What generate asks of a mask before it compiles with a static cache."""
        raise ValueError(
            "longreel attention takes dynamic caches; this one is compilable (cache_implementation='static')"
        )

    def plan(self, given: Layout | None, batch: int, device: torch.device) -> PlannedLayout:
        """The plan of `given`, else of the layout in force, else of causal rows, for `batch` samples; made once a pass."""
        layout = self.in_force.layout if given is None else given
        if self._plan is None or self._plan[0] is not layout:
            self._plan = layout, self._made(layout, batch, device, grows=given is None)
        return self._plan[1].to(device)

    def _made(self, layout: Layout | None, batch: int, device: torch.device, grows: bool) -> PlannedLayout:
        if self.objection is not None or (self.packed and layout is None):
            raise ValueError(
                self.objection
                or "positions that begin anew, and any under torch.compile, need a layout: see VideoLayout.packed, .causal"
            )
        if self.gap is not None:
            if layout is not None:
                raise ValueError("padding between what a cache holds and a question cannot be combined with a layout")
            return planned(self.gap.layout(self.keys).rows(self.first, self.first + self.queries), device)
        if layout is None:
            rows = VideoLayout.causal(self.keys).rows(self.first, self.first + self.queries)
            plan = planned(rows, device)
            return plan if self.start is None else plan.with_start(self.start.to(device))
        whole = layout.layout if isinstance(layout, PlannedLayout) else layout
        rows = _repeated(self._window(whole, grows), batch)
        plan = (
            planned(rows, device) if rows is not whole or not isinstance(layout, PlannedLayout) else layout.to(device)
        )
        if isinstance(layout, PlannedLayout):
            plan = plan.with_start(layout.start.to(device).repeat_interleave(rows.batch_size // whole.batch_size))
        self._check_padding(plan)
        return plan

    def _window(self, layout: VideoLayout, grows: bool) -> VideoLayout:
        """The rows of `layout` that this pass computes; `grows`: text rows may follow what it speaks of."""
        end = self.first + self.queries
        if layout.order != "position":
            raise ValueError("a grouped layout orders rows as no transformers model does; allowed: position order")
        if layout.window is not None or (end == layout.length and self.first == 0):
            begin = 0 if layout.window is None else layout.window[0]
            if (begin, begin + layout.queries) != (self.first, end):
                raise ValueError(
                    f"the layout speaks of rows {layout.window}, this forward pass computes {(self.first, end)}"
                )
            return layout
        if end > layout.length and self.first == 0 and not grows:
            raise ValueError(f"the layout has {layout.length} rows and the input {end}: they must be as many")
        return layout.extend(max(0, end - layout.length)).rows(self.first, end)

    def _check_padding(self, plan: PlannedLayout) -> None:
        if self.start is None:
            return
        own, given = plan.start.tolist(), self.start.tolist()
        for b, rows in enumerate(given):
            if rows != min(own[b % len(own)], self.keys):
                raise ValueError(
                    f"the attention mask pads {rows} rows on the left of sample {b}, the layout {own[b % len(own)]}:"
                    " VideoLayout.batch pads layouts as a batch is padded"
                )


def _repeated(layout: VideoLayout, batch: int) -> VideoLayout:
    """Every sample as often as `batch` asks, in a row, as generate expands its inputs."""
    times, rest = divmod(batch, layout.batch_size)
    if layout.batch_size == 1 or times == 1 or rest:
        return layout
    return replace(layout, samples=tuple(sample for sample in layout.samples for _ in range(times)))


def rows_seen(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int | Tensor = 0,
    mask_function: Callable = causal_mask_function,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    **_: Any,
) -> RowsSeen:
    """The mask interface: sizes and left padding of a forward pass instead of a mask.

    attention_mask [B, >= keys] is True at real rows. Padding stands on the left, or on the right, where no real row meets it, or
    behind what a cache holds (`Gap`).

    Raises:
        ValueError: zeros elsewhere.
    """
    plain = mask_function is causal_mask_function
    # transformers looks for packed documents only where there is no padding mask, and never through vmap.
    packed = not plain and not use_vmap and attention_mask is None and q_length == kv_length
    objection = (
        None if plain or packed else "longreel attention is causal or under a layout; this model's mask is neither"
    )
    offset = int(kv_offset)
    start = None if attention_mask is None else _padding(attention_mask[:, offset : offset + kv_length])
    gap, start = (start, None) if isinstance(start, Gap) else (None, start)
    return RowsSeen(q_length, kv_length, int(q_offset) - offset, start, in_force(), packed, objection, gap)


@dataclass(frozen=True)
class Gap:
    """Questions of several lengths over one cache: rows begin .. ends[b] of sample b are padding, all others real."""

    begin: int
    ends: tuple[int, ...]

    def layout(self, keys: int) -> VideoLayout:
        """Of all `keys` rows: what the cache holds is one frame to them."""
        samples = (
            VideoLayout.of(
                [("voco", self.begin), ("padding", end - self.begin), ("text", keys - end)], attention="independent"
            )
            for end in self.ends
        )
        return VideoLayout.batch(list(samples))


def _padding(mask: Tensor) -> Tensor | Gap | None:
    """Of a bool mask [B, keys] the left padding int32 [B], or the gap; None where no real row meets any. One read by the host."""
    if torch.compiler.is_compiling():
        raise RuntimeError("under torch.compile the padding is part of the layout: pass a planned layout and no mask")
    real = mask.to("cpu", torch.bool)
    if bool(real.all()):
        return None
    count = real.sum(1)
    # [B], first real key; all of them where there is none
    start = torch.where(count > 0, real.to(torch.uint8).argmax(1), real.shape[1])
    key = torch.arange(real.shape[1])
    broken = (real != ((key >= start[:, None]) & (key < (start + count)[:, None]))).any(1).nonzero().flatten()
    if not len(broken):
        return start.to(mask.device, torch.int32) if bool(start.any()) else None
    # The first zero, and where the zeros end if they stand together.
    begin = int((~real).to(torch.uint8).argmax(1)[broken[0]])
    ends = begin + real.shape[1] - count
    if not torch.equal(real, (key < begin) | (key >= ends[:, None])):
        raise ValueError(
            f"the attention mask of sample {int(broken[0])} has zeros between ones; allowed: padding on the left (as"
            " generate needs it), on the right, or in all samples from the row on where a cache ends"
        )
    return Gap(begin, tuple(ends.tolist()))


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    video_layout: Layout | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention interface: query [B, H, Sq, D], key and value [B, Hkv, Sk, D] -> [B, Sq, H, D]; heads are not expanded.

    Raises:
        ValueError: anything is set that would change the result and is not computed here.
    """
    _refuse(module, attention_mask, dropout, others)
    rows, keys = query.shape[2], key.shape[2]
    seen = attention_mask if attention_mask is not None else RowsSeen(rows, keys, keys - rows, None, in_force())
    plan = seen.plan(video_layout, query.shape[0], query.device)
    q, k, v = (t.transpose(1, 2) for t in (query, key, value))
    return block_sparse_attention(q, k, v, plan, scale=scaling, backend=seen.in_force.backend), None


def _refuse(module: nn.Module, mask: Any, dropout: float, others: dict[str, Any]) -> None:
    name = type(module).__name__
    if mask is not None and not isinstance(mask, RowsSeen):
        raise ValueError(
            f"{name}: a mask of its own ({type(mask).__name__}) cannot be combined with longreel attention; allowed: a 2-D"
            " attention_mask, and a layout"
        )
    if not (others.pop("is_causal", None) in (None, True) and getattr(module, "is_causal", True)):
        raise ValueError(
            f"{name} is not causal, longreel attention is; give it another, as in attn_implementation="
            '{"text_config": "longreel", "vision_config": "sdpa"}'
        )
    if dropout:
        raise ValueError(f"{name}: attention dropout {dropout} is not computed by longreel; 'sdpa' and 'eager' have it")
    for keyword, given in others.items():
        if keyword not in _HARMLESS and given is not None and given is not False:
            raise ValueError(
                f"{name}: longreel attention does not know {keyword}={given!r}, which may change its result"
            )


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, rows_seen)
