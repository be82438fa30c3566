"""A layout on a device: plain int32 tensors, made once, that graphs can hold and kernels read."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longreel.layout.global_keys import global_index
from longreel.layout.schedule import plan

if TYPE_CHECKING:
    from longreel.layout.video_layout import VideoLayout


@dataclass(frozen=True, eq=False)
class PlannedLayout:
    """The plan of `layout` as int32 tensors (see Schedule), and what of it belongs to the batch.

    start [B]: keys before start[b] are padding on the left and seen by no row, also where a tile says "full".
    global_index [B, G]: the key at each place of G, -1 pads.
    A plan of one sample serves any batch.
    """

    layout: "VideoLayout"
    tile: tuple[int, int]
    start: Tensor
    global_index: Tensor
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


def lowered_to(layout: "VideoLayout", device: torch.device | str, tile: tuple[int, int]) -> PlannedLayout:
    """Plan on the host and copy to `device`."""
    schedule = plan(layout, tile, bounds=True)
    on = {
        name: torch.from_numpy(getattr(schedule, name)).to(device)
        for name in ("bounds", "tiles", "order", "units", "runs", "unit_order")
    }
    start = torch.tensor(layout.start, dtype=torch.int32, device=device)
    index = torch.from_numpy(global_index(layout)).to(device)
    return PlannedLayout(layout, schedule.tile, start, index, **on)
