"""Packed samples: where the documents of an input begin, as its keywords say."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from longreel.layout import PlannedLayout, VideoLayout
from longreel.layout.documents import begins_document

Lengths = list[list[int]]


def of_bounds(bounds: Tensor, others: Tensor | None, batch: int, rows: int) -> Lengths:
    """Lengths of the documents of the only sample from cu_seq_lens_q int [n + 1]; `others` are cu_seq_lens_k. One read.

    Raises:
        ValueError: they are not the documents of one sample of so many rows.
    """
    ends = bounds.flatten().tolist()
    if others is not None and others is not bounds and not torch.equal(others.to(bounds), bounds):
        raise ValueError(
            "cu_seq_lens_k differ from cu_seq_lens_q; longreel attention takes documents that attend to themselves"
        )
    if batch != 1 or len(ends) < 2 or ends[0] != 0 or ends[-1] != rows or sorted(ends) != ends:
        raise ValueError(
            f"cu_seq_lens_q says {len(ends) - 1} documents of {ends[-1] if ends else 0} rows, the input is {batch} x {rows};"
            " allowed: all rows in one sample, from 0"
        )
    return [_differences(ends)]


def of_numbers(numbers: Tensor) -> Lengths:
    """Lengths from the number of the document of each row, int64 [B, S]."""
    return of_begins(numbers.diff(dim=1, prepend=numbers[:, :1] - 1) != 0)


def of_begins(begins: Tensor) -> Lengths:
    """Lengths from bool [B, S], True where a document begins, the first row among them."""
    rows = begins.to("cpu")
    return [_differences([*row.nonzero().flatten().tolist(), rows.shape[1]]) for row in rows]


def told(values: Tensor, name: str) -> bool:
    """Whether a tensor has values to read: False on meta, where shapes are all that is asked.

    Raises:
        ValueError: it is fake, and what is traced with it would be run with others.
    """
    if isinstance(values, FakeTensor):
        raise ValueError(f"{name} of fake tensors say nothing: pass a planned layout and none of them")
    return not values.is_meta


def begins(positions: Tensor, real: Tensor | None) -> Tensor:
    """bool [B, S] on the host: positions int [B, S] go back to 0, or back at all, from one real row to the next."""
    at = positions.to("cpu")
    out = torch.zeros(at.shape, dtype=torch.bool)
    out[:, 1:] = (at[:, 1:] == 0) | (at[:, 1:] < at[:, :-1])
    if real is not None:
        rows = real.to("cpu", torch.bool)
        out = out & rows
        out[:, 1:] &= rows[:, :-1]
    return out


def consecutive(positions: Tensor, begins: Tensor) -> bool:
    """Whether positions int [B, S] rise by one inside each document, where `begins` says that they are documents, and some have
    more than one row. Others may as well be those of one sequence, as where the patches of a frame share one."""
    at = positions.to("cpu")
    steps = at[:, 1:] - at[:, :-1] == 1
    return bool((steps | begins[:, 1:]).all()) and bool(steps.any())


def _differences(ends: list[int]) -> list[int]:
    return [b - a for a, b in pairwise(ends)]


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents that an input names: lengths of each sample's, the keyword, and its positions [B, S] where it is position_ids.

    refused: something else says that they are one sequence.
    """

    lengths: Lengths
    keyword: str
    positions: Tensor | None = None
    refused: bool = False

    def check(self, layout: VideoLayout | PlannedLayout) -> None:
        """They begin where documents of `layout` do. Inside one, positions may jump (those of VoCo), but not to 0."""
        whole = layout.layout if isinstance(layout, PlannedLayout) else layout
        if whole.window is not None:
            return
        begins = begins_document(whole)
        if isinstance(layout, PlannedLayout):
            begins = begins | (np.arange(whole.length) <= layout.start.cpu().numpy()[:, None])
        if self.positions is None and self.keyword == "position_ids":
            return
        if self.positions is None:
            at = np.cumsum(self.lengths[0])[:-1]
            fits = len(begins) == 1 and at[-1:] < whole.length and bool(begins[0][at].all())
        else:
            zero = (self.positions == 0).cpu().numpy()[:, : whole.length]
            zero[:, 0] = False
            fits = not bool(
                (zero & begins[np.arange(len(zero)) * len(begins) // len(zero)][:, : zero.shape[1]] ^ zero).any()
            )
        if not fits:
            raise ValueError(f"{self.keyword} begins a document where the layout does not; see VideoLayout.packed")
