"""Steps of text in a sliding window, in chunks, or both, wherever they begin: what the rows attend to is a formula of that place,
which may lie on the device. Nothing is planned, and nothing is read by the host."""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from longreel.layout import row_sets
from longreel.layout._modes import ordinary_tensors
from longreel.layout._ranges import Ranges, of_lines
from longreel.layout.numbers import count
from longreel.layout.planned import PlannedLayout
from longreel.layout.planning import lowered_to
from longreel.layout.step_rows import StepRows
from longreel.layout.steps import cached_step, for_inference
from longreel.layout.video_layout import VideoLayout


@dataclass(frozen=True, eq=False)
class BoundedSteps:
    """Plans of steps of text of one number of rows, for inference. A row attends to the last `window` rows, itself included,
    inside its own chunk of `chunk` rows.

    base: of as many rows of text alone, in one sample.
    """

    base: PlannedLayout
    window: int | None
    chunk: int | None

    def at(self, first: int | Tensor, *, dropped: int = 0, padding: Tensor | None = None) -> PlannedLayout:
        """The plan of the step whose first row is key `first` of those that there are; a tensor is an integer of one element on
        the plan's device.

        dropped: keys before those, that a sliding cache let go. padding: integers [B], rows of left padding of every sample,
        behind which its chunks are counted; None: there is none.
        """
        rows, device = self.base.bounds.shape[1], self.base.bounds.device
        place = first.reshape(()) if isinstance(first, Tensor) else first
        with nullcontext() if isinstance(first, Tensor) else ordinary_tensors():
            # [1, rows], counted from the first key that there is, and [1 or B, rows]
            row = (torch.arange(rows, device=device) + place)[None]
            lo = row - self._reach(row + dropped, None if padding is None else padding[:, None])
            lo = lo.clamp(min=0)
            hi = (row + 1).expand_as(lo)
            none = torch.zeros_like(lo)
            bounds = torch.stack([lo, hi, none, none], -1).int()
            tiles, order = self._tiles(lo, hi)
            there = rows if isinstance(first, Tensor) else first + rows
            extent = self.base.extent.new_empty(there, 0)
            start = self.base.start.expand(len(lo))
        own = None
        if not isinstance(first, Tensor) and padding is None:
            own = StepRows(1, rows, lambda: self._ranges(first, dropped))
        return replace(self.base, layout=own, bounds=bounds, tiles=tiles, order=order, extent=extent, start=start)

    def _reach(self, row: Tensor, padding: Tensor | None) -> Tensor:
        """How many keys before itself each row attends to; row: counted from the first key that there ever was."""
        reach = row if self.window is None else row.clamp(max=self.window - 1)
        if self.chunk is None:
            return reach
        return torch.minimum(reach, (row if padding is None else row - padding).remainder(self.chunk))

    def _tiles(self, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
        """tiles [B * T, 12] and their order, of bounds [B, rows] that both rise."""
        base, step, samples = self.base.tiles, self.base.tile[1], len(lo)
        # [T], first and last row
        head, tail = base[:, 1].long(), base[:, 2].long() - 1
        # [B, T]
        begin, end = lo[:, head], hi[:, tail]
        full = torch.minimum(begin + (lo[:, tail] - begin + step - 1) // step * step, end)
        met = torch.stack([begin, full, torch.maximum(full, hi[:, head]), end], -1)
        sample = torch.arange(samples, device=lo.device)[:, None, None].expand(-1, len(base), 1)
        rest = base[:, 1:4].expand(samples, -1, -1)
        tiles = torch.cat([sample, rest, met, torch.zeros_like(met)], -1).flatten(0, 1)
        order = (torch.arange(samples, device=lo.device)[:, None] * len(base) + self.base.order).flatten()
        return tiles.int(), order.int()

    def _ranges(self, first: int, dropped: int) -> Ranges:
        row = torch.arange(first, first + self.base.bounds.shape[1])
        lo = (row - self._reach(row + dropped, None)).clamp(min=0).numpy()
        sets = row_sets.interval(lo, row.numpy() + 1)
        return of_lines(row_sets.lines(sets, row.numpy()))


def bounded_steps(
    rows: int, device: torch.device | str, *, window: int | None = None, chunk: int | None = None
) -> BoundedSteps:
    """Steps of `rows` rows of text in a `window`, in chunks of `chunk` rows, or both; the last few are cached."""
    device = torch.device(device)
    made: BoundedSteps = cached_step(
        ("bounded", rows, str(device), window, chunk), None, lambda: _made(rows, device, window, chunk)
    )
    return made


def _made(rows: int, device: torch.device, window: int | None, chunk: int | None) -> BoundedSteps:
    rows = count("rows", rows, 1)
    window = window if window is None else count("window", window, 1)
    chunk = chunk if chunk is None else count("chunk", chunk, 1)
    return BoundedSteps(for_inference(lowered_to(VideoLayout.causal(rows), device)), window, chunk)
