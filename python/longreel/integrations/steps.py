"""Forward passes that are steps of text behind what a cache holds: planned once, and moved to where each begins."""

import torch
from torch import Tensor

from longreel.integrations.mask_functions import MaskRule
from longreel.integrations.padding import Gap
from longreel.layout import PlannedLayout, VideoLayout, bounded_steps, text_steps
from longreel.layout.documents import last_text


def step_of(
    layout: VideoLayout | PlannedLayout | None,
    gap: Gap | None,
    start: Tensor | None,
    place: int | Tensor,
    rows: int,
    batch: int,
    device: torch.device,
) -> PlannedLayout | None:
    """The plan of rows `place` .. place + rows behind a layout, a gap, or text alone, padded up to `start`.

    place: on the device only behind text alone, where a step may begin anywhere.

    Returns:
        None where the pass is no such step: it is a part of the layout, is compiled, or has gradients, which plans of steps have
        not.
    """
    if not _are_steps():
        return None
    whole = layout.layout if isinstance(layout, PlannedLayout) else layout
    if layout is not None and not isinstance(whole, VideoLayout):
        return None
    if gap is not None:
        whole, batch = gap.shortest(), 1
    if not isinstance(place, Tensor) and place < max(1, 1 if whole is None else whole.length):
        return None
    steps = text_steps(whole, rows, device, batch=1 if whole is None else batch)
    if steps is None:
        return None
    plan = steps.at(place)
    if isinstance(layout, PlannedLayout):
        start = layout.start.repeat_interleave(plan.bounds.shape[0] // layout.bounds.shape[0])
        start = start if layout.start_given else None
    elif layout is not None:
        start = None
    return plan if start is None else plan.with_start(start.to(device))


def bounded_step_of(
    rule: MaskRule,
    real: Tensor | None,
    start: Tensor | None,
    place: int | Tensor,
    rows: int,
    dropped: int,
    device: torch.device,
) -> PlannedLayout | None:
    """The plan of rows of text in the model's own window or chunks, padded up to `start`, whose first `dropped` keys a cache
    let go; None where the pass is no step, or has more rows than a chunk. real: the mask of all keys, bool [B, keys]."""
    if not _are_steps() or (not isinstance(place, Tensor) and place < 1):
        return None
    if rule.chunk is not None and rows > rule.chunk:
        return None
    steps = bounded_steps(rows, device, window=rule.window, chunk=rule.chunk)
    # Chunks are counted from behind padding that the cache may have let go.
    padded = rule.chunk_padding is not None and real is not None and not bool(real[:, 0].all())
    padding = rule.chunk_padding if padded else None
    plan = steps.at(place, dropped=dropped, padding=None if padding is None else padding.to(device))
    return plan if start is None else plan.with_start(start.to(device))


def bounded_text_step_of(
    rule: MaskRule,
    layout: VideoLayout,
    place: int,
    rows: int,
    dropped: int,
    batch: int,
    device: torch.device,
) -> PlannedLayout | None:
    """The plan of rows `place` .. place + rows of text in the model's own window or chunks, behind a layout of text
    alone: of its last document, and of nothing before it, they attend to what the window leaves.

    Returns:
        None where the pass is no such step, or the layout's last rows are anything else.
    """
    begins = last_text(layout)
    if not _are_steps() or begins is None or dropped + place < max(1, layout.length):
        return None
    if batch % layout.batch_size:
        return None
    several = any(sum(not d.padding for d in documents) > 1 for documents in layout.samples)
    if rule.chunk is not None and (rows > rule.chunk or several):
        return None
    first = torch.tensor(begins, dtype=torch.int32).repeat_interleave(batch // layout.batch_size)
    steps = bounded_steps(rows, device, window=rule.window, chunk=rule.chunk)
    plan = steps.at(place, dropped=dropped, padding=first.to(device) if rule.chunk is not None else None)
    return plan.with_start((first - dropped).clamp(min=0).to(device)) if any(begins) else plan


def _are_steps() -> bool:
    return not torch.is_grad_enabled() and not torch.compiler.is_compiling()
