"""token_density: how alike tokens are, and how densely they lie."""

import torch
from torch import Tensor

# Of a length that is divided by.
SHORTEST = 1e-12
NEIGHBOURS = 4


def token_density(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x [n, C] -> likeness [n, n], density [n], denser [n]."""
    unit = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=SHORTEST)
    likeness = unit @ unit.mT
    number = torch.arange(len(x), device=x.device)
    # tensors, not slices of them: compiled code takes any n
    itself = number == number[:, None]
    nearest = likeness.masked_fill(itself, -torch.inf).topk(min(NEIGHBOURS, max(0, len(x) - 1)), dim=1).values
    density = (-(2 - 2 * nearest).clamp(min=0).mean(1)).exp() if nearest.shape[1] else x.new_ones(len(x))
    ahead = (density > density[:, None]) | ((density == density[:, None]) & (number < number[:, None]))
    denser = likeness.masked_fill(~ahead, -torch.inf).amax(1) if len(x) else density
    least = likeness.amin(1) if len(x) else density
    return likeness, density, torch.where(denser.isneginf(), least, denser)
