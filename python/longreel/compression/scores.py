"""What a token of a video is worth keeping for: a number for each of T frames of N tokens, the larger the better.

Features are read in chunks of frames, by VidCom2 three times, as its formula needs it; the scores [T, N] are held. Computed
in float32, in float64 where the features are.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from longreel.compression.frames import SCORED, FrameFeatures, chunks, spans
from longreel.ops import token_scores

# VidCom2's kernel widths: 2^-3 .. 2^1.
WIDTHS = tuple(2.0**power for power in range(-3, 2))
# Of a length that is divided by.
SMALLEST = 1e-12


class Fused(NamedTuple):
    """[T, N] each, as `by_query`, `by_change` and the op's uniqueness; saliency: None without a query."""

    saliency: Tensor | None
    change: Tensor
    uniqueness: Tensor


def fused(frames: FrameFeatures, query: Tensor | None = None) -> Fused:
    """All that `token_scores` gives, from one read of the features. What a query of M rows is multiplied to is held meanwhile, M
    numbers a token; where those would be more than an eighth of the token's own, features are read a second time instead."""
    first = frames[:1]
    asked = first.new_empty(0, first.shape[-1]) if query is None else query.to(first.device)
    dtype = torch.promote_types(torch.promote_types(first.dtype, asked.dtype), torch.float32)
    shape, held = frames.shape[:2], 32 * len(asked) <= first.shape[-1] * first.element_size()
    # Made once: pieces that stay between those that go would let the heap grow with the video.
    change, uniqueness = (first.new_empty(shape, dtype=dtype) for _ in range(2))
    products = first.new_empty(*shape, len(asked) if held else 0, dtype=dtype)
    lse, before = asked.new_full((len(asked),), -torch.inf, dtype=dtype), None
    for (a, b), x, own in _alike(frames, asked):
        found = token_scores(x, own, before=before)
        change[a:b], uniqueness[a:b] = found.change, found.uniqueness
        # Into the same room: fresh pages cost more than the copy.
        before = x[-1].clone() if before is None else before.copy_(x[-1])
        lse = torch.logaddexp(lse, found.products.flatten(0, 1).logsumexp(0))
        if held:
            products[a:b] = found.products
    if query is None:
        return Fused(None, change, uniqueness)
    saliency = torch.empty_like(change)
    if held:
        for a, b in spans(frames, SCORED):
            saliency[a:b] = (products[a:b] - lse).exp().mean(-1)
    else:
        for (a, b), x, own in _alike(frames, asked):
            saliency[a:b] = (token_scores(x, own).products - lse).exp().mean(-1)
    return Fused(saliency, change, uniqueness)


def _alike(frames: FrameFeatures, query: Tensor) -> Iterator[tuple[tuple[int, int], Tensor, Tensor]]:
    """Spans, their features and the query, in a dtype that holds both."""
    for a, b in spans(frames, SCORED):
        x = frames[a:b]
        dtype = torch.promote_types(x.dtype, query.dtype)
        yield (a, b), x.to(dtype), query.to(dtype)


def by_change(frames: FrameFeatures) -> Tensor:
    """[T, N]: 1 - cos(x_t, x_{t-1}) at the same place; infinity in the first frame, which goes before all others.

    Efficient Video Sampling (arXiv 2510.14624).
    """
    return fused(frames).change


def by_query(frames: FrameFeatures, query: Tensor) -> Tensor:
    """[T, N]: mean_m softmax_{t,n}(q_m . x_tn / sqrt(C)), query [M, C]; over the whole video it sums to one.

    The weights of LLaMA-VID's context token (arXiv 2311.17043, equation 1, without its projections), with the video for the
    frame: what `context_attention` returns for all tokens packed as one.
    """
    saliency = fused(frames, query).saliency
    assert saliency is not None
    return saliency


def by_uniqueness(frames: FrameFeatures) -> tuple[Tensor, Tensor]:
    """[T, N], how unlike its frame and the video a token is; [T], how unlike the video a frame is.

    VidCom2 (arXiv 2505.14454) as its code computes it: of the half of the channels that vary least, normalised to z,

        G(z, c) = sum_a exp(-|z - c|^2 / 2a)        a in 1/8, 1/4, 1/2, 1, 2
        token = -G(z, mean of the video) - G(z, mean of the frame)        frame = -mean over its tokens of G(z, mean of the video)
    """
    total = frames.shape[0]
    steady = _steady_channels(frames)
    # Made once, as in `fused`. Lengths of tokens over those channels.
    lengths, scores = (torch.empty(*frames.shape[:2], dtype=steady.dtype, device=steady.device) for _ in range(2))
    unlike = lengths.new_empty(total)
    centre, at = torch.zeros_like(steady, dtype=torch.float64), 0
    for x in chunks(frames):
        length = lengths[at : at + len(x)] = torch.linalg.vector_norm(x * steady, dim=-1)
        centre += _means(x, length).double().sum(0)
        at += len(x)
    centre, at = centre.to(steady.dtype) * steady / total, 0
    for x in chunks(frames):
        here = slice(at, at + len(x))
        length = lengths[here]
        to_video = _kernel(x, length, centre.expand(len(x), -1))
        scores[here] = -to_video - _kernel(x, length, _means(x, length) * steady)
        unlike[here] = -to_video.mean(-1)
        at += len(x)
    return scores, unlike


def _steady_channels(frames: FrameFeatures) -> Tensor:
    """1 for the half of the channels with the smallest variance over all tokens, equal ones by their number, else 0; [C]."""
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for chunk in chunks(frames):
        x = chunk.flatten(0, 1)
        # Sums as products, which take a third of the time of x.sum(0).
        one = x.new_ones(len(x))
        here = one @ x / len(x)
        # Means and sums of squares about them, joined (Chan, Golub, LeVeque 1979).
        about, more, here = (one @ (x - here).square_()).double(), len(x), here.double()
        apart = here - mean.to(here)
        squares = squares.to(here) + about + apart.square() * (count * more / (count + more))
        mean = mean.to(here) + apart * (more / (count + more))
        count += more
    half = max(1, squares.shape[0] // 2)
    return torch.zeros_like(squares, dtype=chunk.dtype).index_fill_(0, squares.argsort(stable=True)[:half], 1)


def _means(x: Tensor, length: Tensor) -> Tensor:
    """[f, C]: means over a frame's tokens of x / length."""
    return torch.bmm((1 / length.clamp(min=SMALLEST))[:, None], x)[:, 0] / x.shape[1]


def _kernel(x: Tensor, length: Tensor, centre: Tensor) -> Tensor:
    """[f, N]: G(z, c) with |z - c|^2 = |z|^2 - 2 z . c + |c|^2; centre [f, C]. A token is summed by itself, so that those that
    are the same score the same."""
    unit = length.clamp(min=SMALLEST)
    apart = (length / unit).square() - 2 * (x * centre[:, None]).sum(-1) / unit + centre.square().sum(-1)[:, None]
    return torch.stack([(-apart.clamp(min=0) / (2 * width)).exp() for width in WIDTHS]).sum(0)
