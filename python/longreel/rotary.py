"""Rotary tables: evaluated in float64 from a model's float32 inverse frequencies, stored in float32."""

import torch
from torch import Tensor


def rotary_tables(inv_freq: Tensor, positions: Tensor | int) -> tuple[Tensor, Tensor]:
    """cos and sin, float32 ``[*positions, D/2]``, of the angles position * frequency.

    Args:
        inv_freq: ``[D/2]``, as the model holds it (``rotary_emb.inv_freq``), float32 or float64.
        positions: integers of any shape, or a number n for 0 .. n - 1.
    """
    if not isinstance(inv_freq, Tensor):
        raise TypeError(f"inv_freq is a {type(inv_freq).__name__}; allowed: a tensor float32 [D/2]")
    if inv_freq.dim() != 1 or inv_freq.dtype not in (torch.float32, torch.float64):
        given = f"{str(inv_freq.dtype).removeprefix('torch.')} {list(inv_freq.shape)}"
        raise ValueError(f"inv_freq is float32 [D/2], as the model holds it; given {given}")
    if not isinstance(positions, Tensor | int) or isinstance(positions, bool):
        raise TypeError(f"positions is a {type(positions).__name__}; allowed: a tensor of integers, or how many")
    if isinstance(positions, int):
        if positions < 0:
            raise ValueError(f"positions={positions} is below 0")
        positions = torch.arange(positions, device=inv_freq.device)
    # An angle of some tens of thousands has but three digits left behind the point in float32.
    angles = positions.to(torch.float64)[..., None] * inv_freq.to(torch.float64)
    return angles.cos().float(), angles.sin().float()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x ``[..., D]`` with its halves turned by the angles of cos, sin ``[..., D/2]``; computed as their types promote."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
