"""A layout on a device: plain int32 tensors, made once, that graphs can hold and kernels read."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from longreel.layout.step_rows import StepRows

# (query rows, keys) of a tile, by the device's kernels.
TILES = {"cpu": (16, 64), "cuda": (128, 64)}


@dataclass(frozen=True, eq=False)
class PlannedLayout:
    """The plan of `layout` as int32 tensors (see Schedule), and what of it belongs to the batch.

    bounds [B, Sq, 4], or its lo and hi alone, [B, Sq, 2]: see `planning.lowered_to`.
    start [B]: keys before start[b] are padding on the left and visible to no row, also where a tile says "full".
    global_index [B, G]: the key at each place of G, -1 pads.
    extent [Sk, 0]: holds no number; its shape says how many keys the layout expects, also to a compiled graph.
    start_given: `start` came from with_start, so it may not be the layout's own.
    rule: the attention of the layout's rule where every sample is one document of that one, unpadded and whole; else "".
    A plan of one sample serves any batch.
    """

    # A VideoLayout; that class says what it is planned to, so it stands above this one. StepRows, or None where its place is on
    # the device: a step of text (steps.py), which has no kv_blocks, and so no gradient. None: some rows of a layout (part.py).
    layout: Any
    tile: tuple[int, int]
    start: Tensor
    global_index: Tensor
    extent: Tensor
    bounds: Tensor
    tiles: Tensor
    order: Tensor
    kv_blocks: Tensor
    query_ranges: Tensor
    kv_order: Tensor
    start_given: bool = False
    rule: str = ""

    def with_start(self, start: Tensor) -> "PlannedLayout":
        """The same plan with left padding start int32 [B] from a device tensor: no host synchronisation, nothing planned anew."""
        if not isinstance(start, Tensor):
            raise TypeError(f"start is a tensor int32 [B]; given {type(start).__name__}")
        if start.dtype != torch.int32 or start.dim() != 1 or self.start.shape[0] not in (1, start.shape[0]):
            raise ValueError(
                f"start is int32 [B], B = {self.start.shape[0]} or any where the layout has one sample;"
                f" given {str(start.dtype).removeprefix('torch.')} {list(start.shape)}"
            )
        if not torch.compiler.is_compiling() and start.is_inference():
            with torch.inference_mode(False):
                start = start.clone()
        return replace(self, start=start, start_given=True)

    def fake(self, mode: Any) -> "PlannedLayout":
        """The plan as tensors of a fake tensor mode, which takes no others; this one stays as it is."""
        made = {f.name: mode.from_tensor(t) for f in fields(self) if isinstance(t := getattr(self, f.name), Tensor)}
        return replace(self, **made)

    def to(self, device: torch.device | str) -> "PlannedLayout":
        """The layout planned for `device`, with this left padding; itself where it is there already."""
        device = torch.device(device)
        if device.type == self.start.device.type and device.index in (None, self.start.device.index):
            return self
        if self.layout is None or isinstance(self.layout, StepRows):
            there: dict[str, Any] = {
                f.name: t.to(device) for f in fields(self) if isinstance(t := getattr(self, f.name), Tensor)
            }
            return replace(self, **there)
        moved: PlannedLayout = self.layout.to(device)
        return moved.with_start(self.start.to(device)) if self.start_given else moved
