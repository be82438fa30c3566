"""token_scores: three numbers by which a token of a video is kept, from its features."""

import torch
from torch import Tensor

# Of a length that is divided by.
SHORTEST = 1e-8


def token_scores(patches: Tensor, query: Tensor, before: Tensor | None, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """patches [F, N, C], query [M, C], before [N, C] -> products [F, N, M], change [F, N], uniqueness [F, N]."""
    unit = patches / _lengths(patches)
    first = patches.new_full((1, patches.shape[1]), torch.inf)
    if before is not None:
        first = 1 - (unit[:1] * (before / _lengths(before))).sum(-1)
    change = torch.cat([first[: len(patches)], 1 - (unit[1:] * unit[:-1]).sum(-1)])
    mean = unit.sum(1, keepdim=True) / max(1, patches.shape[1])
    uniqueness = 1 - (unit * (mean / _lengths(mean))).sum(-1)
    return patches @ (scale * query).mT, change, uniqueness


def _lengths(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=SHORTEST)
