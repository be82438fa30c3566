"""The layout argument of an op: planned, or planned now."""

from functools import lru_cache

import torch

from longreel.layout import PlannedLayout, VideoLayout

PLANS_KEPT = 16


def planned(layout: VideoLayout | PlannedLayout, device: torch.device) -> PlannedLayout:
    """A PlannedLayout as it is; a VideoLayout planned at its first use, the last few plans kept by value and device."""
    if isinstance(layout, PlannedLayout):
        return layout
    if not isinstance(layout, VideoLayout):
        raise TypeError(f"layout is a {type(layout).__name__}; allowed: VideoLayout, or what layout.to(device) gives")
    if torch.compiler.is_compiling() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        raise RuntimeError(
            "a VideoLayout under torch.compile or CUDA graph capture must be planned before: pass layout.to(device)"
        )
    return _kept(layout, device)


@lru_cache(maxsize=PLANS_KEPT)
def _kept(layout: VideoLayout, device: torch.device) -> PlannedLayout:
    return layout.to(device)
