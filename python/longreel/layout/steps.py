"""Steps of text behind a layout, of as many rows each, from one plan: the text before a step only moves its bounds.

A row of text sees local keys up to itself, from one place on or in a window that moves with it, and global keys that stay. So
the plan of a step is the plan of another with a length added, on the device where that length is, and nothing is planned.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from longreel.layout._modes import ordinary_tensors
from longreel.layout.documents import repeated
from longreel.layout.numbers import count
from longreel.layout.planned import PlannedLayout
from longreel.layout.planning import lowered_to
from longreel.layout.video_layout import VideoLayout

STEPS_KEPT = 16


@dataclass(frozen=True, eq=False)
class TextSteps:
    """Plans of steps of text of one number of rows, for inference.

    base: of the rows `first` and following. least: the first place that a step may begin at. bounds_by int32 [4], tiles_by
    int32 [12]: what one more token before the step adds to a row of `bounds` and of `tiles`.
    """

    base: PlannedLayout
    first: int
    least: int
    bounds_by: Tensor
    tiles_by: Tensor

    def at(self, first: int | Tensor) -> PlannedLayout:
        """The plan of the step whose first row is token `first`; a tensor is an integer of one element on the plan's device,
        which is not read by the host.

        Raises:
            ValueError: the step would begin within what it stands behind.
        """
        if isinstance(first, Tensor):
            by = first.reshape(()) - self.first
            moved = [
                t + step * by for t, step in ((self.base.bounds, self.bounds_by), (self.base.tiles, self.tiles_by))
            ]
            return replace(self.base, bounds=moved[0], tiles=moved[1])
        if first < self.least:
            raise ValueError(f"a step of text begins at token {first}; allowed: from {self.least} on")
        with ordinary_tensors():
            bounds = torch.add(self.base.bounds, self.bounds_by, alpha=first - self.first)
            tiles = torch.add(self.base.tiles, self.tiles_by, alpha=first - self.first)
            extent = self.base.extent.new_empty(first + bounds.shape[1], 0)
        return replace(self.base, bounds=bounds, tiles=tiles, extent=extent)


def text_steps(
    layout: VideoLayout | None, rows: int, device: torch.device | str, *, window: int | None = None, batch: int = 1
) -> TextSteps | None:
    """Steps of `rows` rows of text behind `layout`, or behind nothing but text, in a sliding window if there is one.

    batch: samples of the model's input, where it has each of the layout's several times in a row. The last few are kept: for a
    layout as long as it is the same object.

    Returns:
        None where a step is not a moved one: the layout's rows are a part of it or grouped, end in padding or in a window.
    """
    device = torch.device(device)
    return _kept(
        (id(layout), rows, str(device), window, batch), layout, lambda: _made(layout, rows, device, window, batch)
    )


_KEPT: dict[Any, tuple[Any, TextSteps | None]] = {}


def _kept(key: Any, owner: Any, make: Callable[[], TextSteps | None]) -> TextSteps | None:
    """What `make` gave for this key; the owner is held, so that its id stays its own."""
    found = _KEPT.get(key)
    if found is None:
        found = owner, make()
        while len(_KEPT) >= STEPS_KEPT:
            _KEPT.pop(next(iter(_KEPT), None), None)
        _KEPT[key] = found
    return found[1]


def _made(
    layout: VideoLayout | None, rows: int, device: torch.device, window: int | None, batch: int
) -> TextSteps | None:
    rows = count("rows", rows, 1)
    if layout is None:
        first = 0 if window is None else window
        whole = VideoLayout.causal(rows) if window is None else VideoLayout.sliding_window(first + rows, window)
    else:
        last = [documents[-1] for documents in layout.samples if documents]
        cut = any(document.padding or document.rule.window is not None for document in last)
        if layout.window is not None or layout.order != "position" or len(last) < layout.batch_size or cut or window:
            return None
        first = layout.length
        whole = repeated(layout.extend(rows), batch)
    base = lowered_to(whole.rows(first, first + rows), device)
    slides = int(window is not None)
    with ordinary_tensors():
        tiles = base.tiles.cpu().numpy().copy()
        _exact(tiles, base.bounds.cpu().numpy(), base.tile[1])
        moved = replace(
            base,
            layout=None,
            tiles=torch.from_numpy(tiles).to(device),
            kv_blocks=base.kv_blocks[:0],
            query_ranges=base.query_ranges[:0],
            kv_order=base.kv_order[:0],
        )
        by = [torch.tensor(each, dtype=torch.int32, device=device) for each in _added(slides)]
    # The last row before the first that the window hides begins at the same place.
    return TextSteps(moved, first, first - slides, by[0], by[1])


def _exact(tiles: Any, bounds: Any, step: int) -> None:
    """The local range of every tile from its rows' bounds, not rounded to where its first row happens to stand."""
    for tile in tiles:
        lo, hi = bounds[tile[0], tile[1] : tile[2], :2].T
        full = min(lo[0] + -(-(lo[-1] - lo[0]) // step) * step, hi[-1])
        tile[4:8] = lo[0], full, max(full, hi[0]), hi[-1]


def _added(slides: int) -> tuple[list[int], list[int]]:
    return [slides, 1, 0, 0], [0, 0, 0, 0, slides, slides, 1, 1, 0, 0, 0, 0]
