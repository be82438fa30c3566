"""What a token of a video is worth keeping for: a number for each of T frames of N tokens, the larger the better.

Features are read in chunks of frames, several times where a formula needs it; the scores [T, N] are all that is held. Computed in
float32, in float64 where the features are.
"""

import torch
from torch import Tensor
from torch.nn import functional

from longreel.compression.frames import FrameFeatures, chunks, wide

# VidCom2's kernel widths: 2^-3 .. 2^1.
WIDTHS = tuple(2.0**power for power in range(-3, 2))


def by_change(frames: FrameFeatures) -> Tensor:
    """[T, N]: 1 - cos(x_t, x_{t-1}) at the same place; infinity in the first frame, which goes before all others.

    Efficient Video Sampling (arXiv 2510.14624).
    """
    before, out = None, []
    for x in chunks(frames):
        first = x.new_full((1, x.shape[1]), torch.inf) if before is None else _change(x[:1], before)
        out += [first, _change(x[1:], x[:-1])]
        before = x[-1:].clone()
    return torch.cat(out)


def _change(x: Tensor, before: Tensor) -> Tensor:
    return 1 - functional.cosine_similarity(x, before, dim=-1)


def by_query(frames: FrameFeatures, query: Tensor) -> Tensor:
    """[T, N]: mean_m softmax_{t,n}(q_m . x_tn / sqrt(C)), query [M, C]; over the whole video it sums to one.

    The weights of LLaMA-VID's context token (arXiv 2311.17043, equation 1, without its projections), with the video for the
    frame: what `context_attention` returns for all tokens packed as one. The softmax is shifted in two reads.
    """
    query = wide(query)
    query = query * query.shape[-1] ** -0.5
    # [M]
    lse = query.new_full((query.shape[0],), -torch.inf)
    for x in chunks(frames):
        lse = torch.logaddexp(lse, _products(query, x).flatten(1).logsumexp(1))
    return torch.cat([(_products(query, x) - lse[:, None, None]).exp().mean(0) for x in chunks(frames)])


def _products(query: Tensor, x: Tensor) -> Tensor:
    """[M, f, N]"""
    return (query @ x.flatten(0, 1).T.to(query)).unflatten(1, x.shape[:2])


def by_uniqueness(frames: FrameFeatures) -> tuple[Tensor, Tensor]:
    """[T, N], how unlike its frame and the video a token is; [T], how unlike the video a frame is.

    VidCom2 (arXiv 2505.14454) as its code computes it: of the half of the channels that vary least, normalised to z,

        G(z, c) = sum_a exp(-|z - c|^2 / 2a)        a in 1/8, 1/4, 1/2, 1, 2
        token = -G(z, mean of the video) - G(z, mean of the frame)        frame = -mean over its tokens of G(z, mean of the video)
    """
    steady = _steady_channels(frames)
    total, tokens, _ = frames.shape
    sums = [functional.normalize(x[..., steady], dim=-1).sum((0, 1)) for x in chunks(frames)]
    centre = torch.stack(sums).sum(0) / (total * tokens)
    scores, unlike = [], []
    for x in chunks(frames):
        z = functional.normalize(x[..., steady], dim=-1)
        to_video = _kernel(z, centre)
        scores.append(-to_video - _kernel(z, z.mean(1, keepdim=True)))
        unlike.append(-to_video.mean(-1))
    return torch.cat(scores), torch.cat(unlike)


def _steady_channels(frames: FrameFeatures) -> Tensor:
    """The half of the channels with the smallest variance over all tokens; equal ones by their number. [C // 2], ascending."""
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for chunk in chunks(frames):
        x = chunk.flatten(0, 1).double()
        here = x.mean(0)
        # Means and sums of squares about them, joined (Chan, Golub, LeVeque 1979).
        more = len(x)
        apart = here - mean.to(here)
        squares = squares.to(here) + (x - here).square().sum(0) + apart.square() * (count * more / (count + more))
        mean = mean.to(here) + apart * (more / (count + more))
        count += more
    half = max(1, squares.shape[0] // 2)
    return squares.argsort(stable=True)[:half].sort().values


def _kernel(z: Tensor, centre: Tensor) -> Tensor:
    """G over the last dimension."""
    apart = (z - centre).square().sum(-1)
    return torch.stack([(-apart / (2 * width)).exp() for width in WIDTHS]).sum(0)
