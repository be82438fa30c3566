"""Exact counts: how many tokens stay, of which frames, and which; equal scores go by number, the same everywhere."""

import torch
from torch import Tensor


def top(scores: Tensor, count: int) -> Tensor:
    """Numbers of the `count` largest of scores [n], ascending, int64; of equal ones the first."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def top_of_each(scores: Tensor, counts: Tensor) -> Tensor:
    """Numbers in scores [T, N] of the counts[t] largest of every frame, ascending, int64."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(scores.shape[1], device=scores.device)
    taken = torch.zeros_like(scores, dtype=torch.bool)
    taken.scatter_(1, order, place < counts.to(scores.device)[:, None])
    return taken.flatten().nonzero().flatten()


def share_out(total: int, wanted: Tensor, most: Tensor) -> Tensor:
    """int64 [T] on the CPU that sums to `total`, in proportion to wanted [T] > 0 and at most most [T]; at least 1 each where
    `total` has one for all. Rounded by largest remainder; equal remainders go by number."""
    wanted, most = wanted.detach().cpu().double(), most.cpu().double()
    least = torch.minimum(torch.full_like(most, float(total >= int((most > 0).sum()))), most)
    low, high = 0.0, float(total) / float(wanted.min())
    for _ in range(200):
        factor = (low + high) / 2
        if (factor * wanted).clamp(least, most).sum() < total:
            low = factor
        else:
            high = factor
    exact = (high * wanted).clamp(least, most)
    out = exact.floor().long()
    left = total - int(out.sum())
    for _ in range(left):
        room = torch.where(out < most.long(), exact - out, -torch.inf)
        out[int(room.argmax())] += 1
    return out
