"""A layout on a device: plain int32 tensors, made once, that graphs can hold and kernels read."""

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longreel.layout.global_keys import global_index
from longreel.layout.schedule import plan

if TYPE_CHECKING:
    from longreel.layout.video_layout import VideoLayout

# (query rows, keys) of a tile, by the device's kernels.
TILES = {"cpu": (128, 64), "cuda": (128, 64)}
PLANS_KEPT = 16


@dataclass(frozen=True, eq=False)
class PlannedLayout:
    """The plan of `layout` as int32 tensors (see Schedule), and what of it belongs to the batch.

    start [B]: keys before start[b] are padding on the left and seen by no row, also where a tile says "full".
    global_index [B, G]: the key at each place of G, -1 pads.
    extent [Sk, 0]: holds no number; its shape says how many keys the layout speaks of, also to a compiled graph.
    A plan of one sample serves any batch.
    """

    layout: "VideoLayout"
    tile: tuple[int, int]
    start: Tensor
    global_index: Tensor
    extent: Tensor
    bounds: Tensor
    tiles: Tensor
    order: Tensor
    units: Tensor
    runs: Tensor
    unit_order: Tensor

    def with_start(self, start: Tensor) -> "PlannedLayout":
        """The same plan with left padding start int32 [B] from a device tensor: no host synchronisation, nothing planned anew."""
        if start.dtype != torch.int32 or start.dim() != 1 or self.start.shape[0] not in (1, start.shape[0]):
            raise ValueError(
                f"start is int32 [B], B = {self.start.shape[0]} or any where the layout has one sample;"
                f" given {str(start.dtype).removeprefix('torch.')} {list(start.shape)}"
            )
        return replace(self, start=start)

    def to(self, device: torch.device | str) -> "PlannedLayout":
        """The same plan on another device: the tile stays, which may not be the one that device's kernels like best."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: t.to(device) for name, t in values.items() if isinstance(t, Tensor)})


def lowered_to(layout: "VideoLayout", device: torch.device | str, tile: tuple[int, int] | None = None) -> PlannedLayout:
    """Plan on the host and copy to `device`; `tile` None is the device's own."""
    device = torch.device(device)
    schedule = plan(layout, TILES.get(device.type, TILES["cuda"]) if tile is None else tile, bounds=True)
    on = {
        name: torch.from_numpy(getattr(schedule, name)).to(device)
        for name in ("bounds", "tiles", "order", "units", "runs", "unit_order")
    }
    start = torch.tensor(layout.start, dtype=torch.int32, device=device)
    index = torch.from_numpy(global_index(layout)).to(device)
    extent = torch.empty(layout.keys, 0, dtype=torch.int32, device=device)
    return PlannedLayout(layout, schedule.tile, start, index, extent, **on)


def planned(layout: Any, device: torch.device) -> PlannedLayout:
    """A PlannedLayout as it is; a VideoLayout planned on demand, the last few plans kept by value and device."""
    if isinstance(layout, PlannedLayout):
        return layout
    if torch.compiler.is_compiling() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        raise RuntimeError(
            "a VideoLayout under torch.compile or CUDA graph capture must be planned before: pass layout.to(device)"
        )
    kept: PlannedLayout = _kept(layout, device)
    return kept


@lru_cache(maxsize=PLANS_KEPT)
def _kept(layout: "VideoLayout", device: torch.device) -> PlannedLayout:
    return lowered_to(layout, device)
