"""Steps of text behind a layout, of as many rows each, from one plan: the text before a step only moves its bounds.

A row of text attends to local keys up to itself from one place on, and global keys that stay. So the plan of a step is the
plan of another with a length added, on the device where that length is, and nothing is planned. Steps in a window or in
chunks: `bounded`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from longreel.layout._modes import ordinary_tensors
from longreel.layout._ranges import Ranges, ranges
from longreel.layout.documents import repeated
from longreel.layout.numbers import count
from longreel.layout.planned import PlannedLayout
from longreel.layout.planning import lowered_to
from longreel.layout.step_rows import StepRows
from longreel.layout.video_layout import VideoLayout

MOST_STEPS = 16
# What one more token before the step adds to a row of `tiles`.
_ADDED = [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0]


@dataclass(frozen=True, eq=False)
class TextSteps:
    """Plans of steps of text of one number of rows, for inference.

    base: of the rows `first` and following, and least the first place that a step may begin at; rows: of the base.
    bounds_by int32 [2 or 4], tiles_by int32 [12]: what one more token before the step adds to a row of `bounds` and of `tiles`.
    """

    base: PlannedLayout
    first: int
    rows: Ranges
    bounds_by: Tensor
    tiles_by: Tensor

    @property
    def least(self) -> int:
        return self.first

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
        if first < self.first:
            raise ValueError(f"a step of text begins at token {first}; allowed: from {self.first} on")
        more, (samples, count) = first - self.first, self.base.bounds.shape[:2]
        with ordinary_tensors():
            bounds = torch.add(self.base.bounds, self.bounds_by, alpha=more)
            tiles = torch.add(self.base.tiles, self.tiles_by, alpha=more)
            extent = self.base.extent.new_empty(first + count, 0)
        own = StepRows(samples, count, lambda: self.rows._replace(hi=self.rows.hi + more))
        return replace(self.base, layout=own, bounds=bounds, tiles=tiles, extent=extent)


def text_steps(
    layout: VideoLayout | None, rows: int, device: torch.device | str, *, batch: int = 1
) -> TextSteps | None:
    """Steps of `rows` rows of text behind `layout`, or behind nothing but text.

    batch: samples of the model's input, where it has each of the layout's several times in a row. The last few are cached: for a
    layout as long as it is the same object.

    Returns:
        None where a step is not a moved one: the layout's rows are a part of it or grouped, end in padding or in a window.
    """
    device = torch.device(device)
    key = id(layout), rows, str(device), batch
    made: TextSteps | None = cached_step(key, layout, lambda: _made(layout, rows, device, batch))
    return made


_CACHED: dict[Any, tuple[Any, Any]] = {}


def cached_step(key: Any, owner: Any, make: Callable[[], Any]) -> Any:
    """What `make` gave for this key; the owner is held, so that its id stays its own."""
    found = _CACHED.get(key)
    if found is None:
        found = owner, make()
        while len(_CACHED) >= MOST_STEPS:
            _CACHED.pop(next(iter(_CACHED), None), None)
        _CACHED[key] = found
    return found[1]


def _made(layout: VideoLayout | None, rows: int, device: torch.device, batch: int) -> TextSteps | None:
    rows = count("rows", rows, 1)
    if layout is None:
        first, whole = 0, VideoLayout.causal(rows)
    else:
        last = [documents[-1] for documents in layout.samples if documents]
        cut = any(d.padding or d.rule.window is not None or d.rule.chunk is not None for d in last)
        if layout.window is not None or layout.order != "position" or len(last) < layout.batch_size or cut:
            return None
        first = layout.length
        whole = repeated(layout.extend(rows), batch)
    step = whole.rows(first, first + rows)
    base = lowered_to(step, device)
    with ordinary_tensors():
        tiles = base.tiles.cpu().numpy().copy()
        _exact(tiles, base.bounds.cpu().numpy(), base.tile[1])
        by = [torch.tensor(each, dtype=torch.int32, device=device) for each in ([0, 1, 0, 0], _ADDED)]
        moved = for_inference(replace(base, tiles=torch.from_numpy(tiles).to(device)))
    return TextSteps(moved, first, ranges(step), by[0][: base.bounds.shape[2]], by[1])


def for_inference(base: PlannedLayout) -> PlannedLayout:
    """Without the layout that it is no more, and without a backward plan."""
    none = {name: getattr(base, name)[:0] for name in ("kv_blocks", "query_ranges", "kv_order")}
    return replace(base, layout=None, **none)


def _exact(tiles: Any, bounds: Any, step: int) -> None:
    """The local range of every tile from its rows' bounds, not rounded to where its first row happens to stand."""
    for tile in tiles:
        lo, hi = bounds[tile[0], tile[1] : tile[2], :2].T
        full = min(lo[0] + -(-(lo[-1] - lo[0]) // step) * step, hi[-1])
        tile[4:8] = lo[0], full, max(full, hi[0]), hi[-1]
