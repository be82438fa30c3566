"""Learned positions of frames and of clips, for as many as were trained or, where asked for, for more."""

import torch
from torch import Tensor


def positions(table: Tensor, count: int, interpolate: bool, what: str) -> Tensor:
    """The first `count` rows of table [T, C], or, of more than T, the table stretched linearly from its first row to its last.

    interpolate: whether more than T are allowed. what: they are of, "frames" or "clips". Differentiable in `table`.

    Raises:
        ValueError: more than T without `interpolate`.
    """
    check(len(table), count, interpolate, what)
    if count <= len(table):
        return table[:count]
    # Places in float64: of an hour's frames float32 would round them to a thousandth of a row.
    at = torch.arange(count, dtype=torch.float64, device=table.device) * ((len(table) - 1) / (count - 1))
    below = at.floor().long().clamp_max(len(table) - 2) if len(table) > 1 else at.long()
    weight = (at - below).to(torch.promote_types(table.dtype, torch.float32))[:, None]
    above = (below + 1).clamp_max(len(table) - 1)
    return torch.lerp(table[below].to(weight.dtype), table[above].to(weight.dtype), weight).to(table.dtype)


def check(rows: int, count: int, interpolate: bool, what: str) -> None:
    """ValueError for more than there are rows, where that was not asked for."""
    if count > rows and not interpolate:
        raise ValueError(f"{count:,} {what} are more than the {rows} trained positions; --interpolate stretches these")
