"""Learned positions of frames and of clips, for as many as were trained or, where asked for, for more."""

import torch
from torch import Tensor, nn


def positions(table: nn.Embedding, count: int, interpolate: bool, what: str) -> Tensor:
    """The first `count` rows of the table [T, C], or, of more than T, the table stretched linearly from its first row to its
    last. It is called, so that adapters and hooks on it act.

    interpolate: whether more than T are allowed. what: they are of, "frames" or "clips". Differentiable in the table.

    Raises:
        ValueError: more than T without `interpolate`.
    """
    trained = table.num_embeddings
    check(trained, count, interpolate, what)
    rows: Tensor = table(torch.arange(min(count, trained), device=table.weight.device))
    if count <= trained:
        return rows
    # Places in float64: of an hour's frames float32 would round them to a thousandth of a row.
    at = torch.arange(count, dtype=torch.float64, device=rows.device) * ((trained - 1) / (count - 1))
    below = at.floor().long().clamp_max(trained - 2) if trained > 1 else at.long()
    weight = (at - below).to(torch.promote_types(rows.dtype, torch.float32))[:, None]
    above = (below + 1).clamp_max(trained - 1)
    return torch.lerp(rows[below].to(weight.dtype), rows[above].to(weight.dtype), weight).to(rows.dtype)


def check(rows: int, count: int, interpolate: bool, what: str) -> None:
    """ValueError for more than there are rows, where that was not asked for."""
    if count > rows and not interpolate:
        raise ValueError(f"{count:,} {what} are more than the {rows} trained positions; --interpolate stretches these")
