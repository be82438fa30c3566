"""Tokens joined where they are dense: segments of a video, anchors in each, and averages about the anchors."""

import torch
from torch import Tensor
from torch.nn import functional

from longreel.compression.choose import top
from longreel.compression.frames import FrameFeatures, chunks, wide
from longreel.ops import token_density

# Frames whose means are less alike than this are of two segments (FastVID's threshold).
ALIKE = 0.9
# Tokens of a segment at most (one frame at least): distances within it are all computed, and held at once. Half as many lose up
# to twice as much of the tokens (docs/measured.md).
LONGEST = 1_024


def segments(frames: FrameFeatures) -> list[tuple[int, int]]:
    """Frames a to b of every segment: cut where cos(mean x_t, mean x_{t-1}) < 0.9, and where one would grow too long."""
    total, tokens, _ = frames.shape
    longest = max(1, LONGEST // tokens)
    begins, before, at = [0], None, 0
    for x in chunks(frames):
        # a product, which takes half the time of x.mean(1)
        means = torch.bmm(x.new_full((len(x), 1, tokens), 1 / tokens), x)[:, 0]
        behind = means[:1] if before is None else before
        alike = functional.cosine_similarity(means, torch.cat([behind, means[:-1]]), dim=-1).tolist()
        for one in alike:
            if at and (one < ALIKE or at - begins[-1] == longest):
                begins.append(at)
            at += 1
        before = means[-1:]
    return list(zip(begins, [*begins[1:], total], strict=True))


def groups(x: Tensor, count: int, alive: Tensor | None) -> tuple[Tensor, Tensor]:
    """Anchors of a segment x [f, N, C], their numbers int64 [count] ascending; and of every token int64 [f * N] the place of its
    anchor among them, -1 where it is not alive [f * N] or no anchor is.

    Density peaks among nearest neighbours (Du, Ding, Jia 2016), in the manner of FastVID (arXiv 2503.11187). With d the
    distance of normalised tokens,

        rho_i = exp(-mean over the 4 nearest j of d_ij^2)
        delta_i = least d_ij over denser j (largest d_ij where none is); of equal rho the first is denser

    anchors are the `count` tokens with the largest rho * delta, and the others go to the anchor with the largest cosine.
    """
    tokens = x.shape[0] * x.shape[1]
    there = torch.arange(tokens, device=x.device) if alive is None else alive.to(x.device).nonzero().flatten()
    out = torch.full((tokens,), -1, dtype=torch.int64, device=x.device)
    if count == 0:
        return there[:0], out
    z = x.flatten(0, 1)
    found = token_density(z if alive is None else z[there])
    anchors = top(found.density * (2 - 2 * found.denser).clamp(min=0).sqrt(), count)
    home = found.likeness[anchors].argmax(0)
    # An anchor is its own, also beside another that is the same.
    home[anchors] = torch.arange(count, device=x.device)
    out[there] = home
    return there[anchors], out


def averages(x: Tensor, of: Tensor, count: int) -> Tensor:
    """[count, C]: means of the tokens of x [n, C] by their group of [n], -1 for none; summed in one order, rounded once."""
    if count == 0:
        return x[:0]
    order = of.argsort(stable=True)
    order = order[int((of < 0).sum()) :]
    lengths = torch.bincount(of[order], minlength=count)
    # in float32: narrower ones would be rounded twice
    return functional.embedding_bag(order, wide(x).contiguous(), lengths.cumsum(0) - lengths, mode="mean").to(x.dtype)
