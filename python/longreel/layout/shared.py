"""Context parallel: one sequence whose rows are shared by the processes of a group."""

from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class SharedRows:
    """Which rows of a sequence this process has. Made by all processes of the group at once, which tell each other theirs.

    rows: int64 [R], in the order of this process's inputs. group: a process group; None is the default one. length: rows of
    the sequence. runs: (first, stop) of consecutive rows, in that order.

    Raises:
        ValueError: no group, no rows, or rows that are not each row of one sequence once.
    """

    def __init__(self, rows: Tensor, group: Any = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError("rows= shares a sequence between processes: torch.distributed is not initialized")
        if not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.ndim != 1 or not len(rows):
            given = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
            raise ValueError(f"rows is {given}; allowed: int64 [rows of this process], at least one")
        self.group, self.count = group, dist.get_world_size(group)
        mine = rows.tolist()
        everyone: list[Any] = [None] * self.count
        dist.all_gather_object(everyone, mine, group=group)
        self.length = sum(map(len, everyone))
        if sorted(row for theirs in everyone for row in theirs) != list(range(self.length)):
            raise ValueError(
                f"rows of the {self.count} processes are {self.length} in all, and not each of 0 .. {self.length - 1} once"
            )
        self.rows = torch.tensor(mine)
        borders = [0, *(i for i, (a, b) in enumerate(pairwise(mine), 1) if b != a + 1), len(mine)]
        self.runs = [(mine[a], mine[b - 1] + 1) for a, b in pairwise(borders)]
        self._most = max(map(len, everyone))
        # Where each row of the sequence stands in what is gathered: every process's rows, filled up to the most there are.
        places = [
            (row, process * self._most + i) for process, theirs in enumerate(everyone) for i, row in enumerate(theirs)
        ]
        self._places = torch.tensor([place for _, place in sorted(places)])
        self._there: dict[torch.device, Tensor] = {}

    def gathered(self, tensor: Tensor) -> Tensor:
        """[B, R, ...] of every process -> [B, length, ...], in the order of the sequence; with a gradient."""
        return _Gathered.apply(tensor, self)

    def _places_on(self, device: torch.device) -> Tensor:
        """Copied once: every layer asks, and a copy waits for the device."""
        if device not in self._there:
            with torch.inference_mode(False):
                self._there[device] = self._places.to(device)
        return self._there[device]

    def _gather(self, tensor: Tensor) -> Tensor:
        padding = (0, 0) * (tensor.ndim - 2) + (0, self._most - tensor.shape[1])
        mine = nn.functional.pad(tensor, padding).contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(parts, mine, group=self.group)
        return torch.cat(parts, 1).index_select(1, self._places_on(tensor.device))

    def _scatter(self, gradient: Tensor) -> Tensor:
        """What the processes' gradients [B, length, ...] add up to at the rows of this one, in the order of the processes."""
        batch, _, *rest = gradient.shape
        whole = gradient.new_zeros(batch, self.count * self._most, *rest)
        whole.index_copy_(1, self._places_on(gradient.device), gradient)
        # [processes, B, most, ...]
        sent = whole.view(batch, self.count, self._most, *rest).transpose(0, 1).contiguous()
        taken = torch.empty_like(sent)
        dist.all_to_all_single(taken, sent, group=self.group)
        total = taken.sum(0, dtype=torch.promote_types(gradient.dtype, torch.float32)).to(gradient.dtype)
        return total[:, : len(self.rows)]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, shared: SharedRows) -> Tensor:
        ctx.shared = shared
        return shared._gather(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.shared._scatter(gradient), None
