"""Forward passes that are steps of text behind what a cache holds: planned once, and moved to where each begins."""

import torch
from torch import Tensor

from longreel.integrations.padding import Gap
from longreel.layout import PlannedLayout, VideoLayout, text_steps


def step_of(
    layout: VideoLayout | PlannedLayout | None,
    gap: Gap | None,
    start: Tensor | None,
    place: int | Tensor,
    rows: int,
    window: int | None,
    batch: int,
    device: torch.device,
) -> PlannedLayout | None:
    """The plan of rows `place` .. place + rows behind a layout, a gap, or text alone in a `window`, padded up to `start`.

    place: on the device only behind text alone, where a step may begin anywhere.

    Returns:
        None where the pass is no such step: it is a part of the layout or of its window, is compiled, or has gradients, which
        plans of steps have not.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    whole = layout.layout if isinstance(layout, PlannedLayout) else layout
    if layout is not None and not isinstance(whole, VideoLayout):
        return None
    if gap is not None:
        whole, batch = gap.shortest(), 1
    least = max(1, 1 if whole is None else whole.length, 1 if window is None else window - 1)
    if not isinstance(place, Tensor) and place < least:
        return None
    steps = text_steps(whole, rows, device, window=window, batch=1 if whole is None else batch)
    if steps is None:
        return None
    plan = steps.at(place)
    if isinstance(layout, PlannedLayout):
        start = layout.start.repeat_interleave(plan.bounds.shape[0] // layout.bounds.shape[0])
    elif layout is not None:
        start = None
    return plan if start is None else plan.with_start(start.to(device))
