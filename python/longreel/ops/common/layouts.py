"""The layout argument of an op: planned, or planned now."""

from functools import lru_cache

import torch
from torch import Tensor

from longreel.layout import PlannedLayout, VideoLayout
from longreel.layout._modes import fake_mode

MOST_PLANS = 16
_LAYOUTS = (VideoLayout, PlannedLayout)
UNPLANNED = "a VideoLayout under torch.compile or CUDA graph capture must be planned before: pass layout.to(device)"


def planned(layout: VideoLayout | PlannedLayout, device: torch.device, like: Tensor | None = None) -> PlannedLayout:
    """A PlannedLayout as it is; a VideoLayout planned at its first use, the last few plans cached by value and device.

    like: a tensor of the call; where it is fake, the plan's tensors are made fake for this call.
    """
    if not isinstance(layout, _LAYOUTS):
        raise TypeError(f"layout is a {type(layout).__name__}; allowed: VideoLayout, or what layout.to(device) gives")
    if torch.compiler.is_compiling():
        if isinstance(layout, VideoLayout):
            raise RuntimeError(UNPLANNED)
        return layout
    if isinstance(layout, VideoLayout):
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(UNPLANNED)
        layout = _cached(layout, device)
    mode = fake_mode(like)
    return layout if mode is None else layout.fake(mode)


@lru_cache(maxsize=MOST_PLANS)
def _cached(layout: VideoLayout, device: torch.device) -> PlannedLayout:
    return layout.to(device)
