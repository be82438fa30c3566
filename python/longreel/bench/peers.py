"""The strongest plain-PyTorch forms of each op, and the obvious ones: what a figure of ours is compared with.

Every peer allocates its outputs inside the call. F frames of N patches of width C, M query rows shared by all frames.
All pool square grids; the strong compress_frames, and the matrix product, only where the output size divides the side.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.bench.one_dnn import linear

Outputs = Tensor | tuple[Tensor, Tensor]

# Frames a chunk: 8 of 256 x 1408 stay in the caches of two cores. With autograd a chunk costs bookkeeping: longer ones.
STEP = 8
STEP_AUTOGRAD = 32


@dataclass(frozen=True)
class Peer:
    """One plain-PyTorch form.

    Args:
        forward: the form without gradients.
        training: the form that autograd follows; None: the same.
        note: what it is, in a few words.
        compiled: goes through torch.compile first.
        copies: peak memory with gradients for the patches beyond inputs, in sizes of the patches: an upper estimate.
    """

    forward: Callable[..., Outputs]
    training: Callable[..., Outputs] | None
    note: str
    compiled: bool = False
    copies: float = 3.0


def chunk(patches: Tensor, step: int) -> int:
    """Frames a chunk: a GPU takes all at once."""
    return step if patches.device.type == "cpu" else max(1, patches.shape[0])


def pool_rows(tokens: int, output_size: int, like: Tensor) -> Tensor:
    """[output_size^2, N], row (i, j) averages the tokens of cell (i, j): pooling as a matrix product."""
    side = math.isqrt(tokens)
    if side * side != tokens or side % output_size:
        raise ValueError(f"this form pools square grids whose side {output_size} divides, given {tokens} patches")
    cell = side // output_size
    line = torch.eye(output_size, dtype=like.dtype, device=like.device).repeat_interleave(cell, 1) / cell
    return torch.kron(line, line)


# compress_frames: query [M, C], patches [F, N, C] -> context [F, C], content [F, output_size^2, C]


def compress_naive(query: Tensor, patches: Tensor, output_size: int) -> tuple[Tensor, Tensor]:
    """As the equations are written, and `adaptive_avg_pool2d`."""
    return context_naive(query, patches), pool_adaptive(patches, output_size)


def compress_batched(query: Tensor, patches: Tensor, output_size: int) -> tuple[Tensor, Tensor]:
    """All frames at once, mean of the softmax rows first, pooling rows in the same bmm: eager, and for torch.compile."""
    rows = pool_rows(patches.shape[1], output_size, patches)
    # [F, 1 + cells, N]
    weights = torch.cat([_batched_weights(query, patches), rows.expand(len(patches), -1, -1)], 1)
    out = torch.bmm(weights, patches)
    return out[:, 0], out[:, 1:]


def compress_strong(query: Tensor, patches: Tensor, output_size: int) -> tuple[Tensor, Tensor]:
    """Chunks of frames, tokens on the long side, mean of the softmax rows first; pooling rows ride in the same bmm."""
    frames, tokens, width = patches.shape
    step = chunk(patches, STEP)
    rows = pool_rows(tokens, output_size, patches)
    # [F, 1 + cells, C]
    out = patches.new_empty(frames, 1 + len(rows), width)
    # [step, 1 + cells, N]
    weights = patches.new_empty(step, 1 + len(rows), tokens)
    weights[:, 1:] = rows
    for start in range(0, frames, step):
        block = patches[start : start + step]
        weights[: len(block), 0] = mean_softmax(linear(block.reshape(-1, width), query), tokens, width)
        torch.bmm(weights[: len(block)], block, out=out[start : start + step])
    return out[:, 0], out[:, 1:]


def compress_strong_training(query: Tensor, patches: Tensor, output_size: int) -> tuple[Tensor, Tensor]:
    """For autograd: `F.linear`, and `split`, whose backward is one cat (slices would each fill a whole gradient)."""
    rows = pool_rows(patches.shape[1], output_size, patches)
    blocks = []
    for block in torch.split(patches, chunk(patches, STEP_AUTOGRAD)):
        weights = _weights(query, block)
        # [step, 1 + cells, N]
        weights = torch.cat([weights[:, None], rows.expand(len(block), -1, -1)], 1)
        blocks.append(torch.bmm(weights, block))
    out = torch.cat(blocks)
    return out[:, 0], out[:, 1:]


# context_attention: query [M, C], patches [F, N, C] -> [F, C]


def context_naive(query: Tensor, patches: Tensor) -> Tensor:
    """As the equation is written: softmax(scale Q X^T) X, then the mean over the query rows."""
    scores = (query @ patches.transpose(1, 2)) * patches.shape[-1] ** -0.5
    return scores.softmax(-1).matmul(patches).mean(1)


def context_sdpa(query: Tensor, patches: Tensor) -> Tensor:
    """scaled_dot_product_attention over the frames, then the mean over the query rows."""
    keys = patches[:, None]
    rows = query.expand(len(patches), 1, -1, -1)
    return F.scaled_dot_product_attention(rows, keys, keys)[:, 0].mean(1)


def context_batched(query: Tensor, patches: Tensor) -> Tensor:
    """All frames at once, mean of the softmax rows first: eager, and for torch.compile."""
    return torch.bmm(_batched_weights(query, patches), patches)[:, 0]


def context_strong(query: Tensor, patches: Tensor) -> Tensor:
    """Chunks of frames, tokens on the long side, mean of the softmax rows first."""
    frames, tokens, width = patches.shape
    step = chunk(patches, STEP)
    # [F, 1, C]
    out = patches.new_empty(frames, 1, width)
    for start in range(0, frames, step):
        block = patches[start : start + step]
        weights = mean_softmax(linear(block.reshape(-1, width), query), tokens, width).to(block.dtype)
        torch.bmm(weights[:, None], block, out=out[start : start + step])
    return out[:, 0]


def context_strong_training(query: Tensor, patches: Tensor) -> Tensor:
    """The same for autograd."""
    blocks = torch.split(patches, chunk(patches, STEP_AUTOGRAD))
    return torch.cat([torch.bmm(_weights(query, block)[:, None], block)[:, 0] for block in blocks])


# adaptive_pool: patches [F, N, C] -> [F, output_size^2, C]


def pool_adaptive(patches: Tensor, output_size: int) -> Tensor:
    """`adaptive_avg_pool2d` over the transposed grid."""
    frames, tokens, width = patches.shape
    side = math.isqrt(tokens)
    grid = patches.view(frames, side, side, width).permute(0, 3, 1, 2)
    pooled = F.adaptive_avg_pool2d(grid, (output_size, output_size))
    return pooled.permute(0, 2, 3, 1).reshape(frames, output_size**2, width)


def pool_matmul(patches: Tensor, output_size: int) -> Tensor:
    """A matrix product of every frame with the pooling rows."""
    rows = pool_rows(patches.shape[1], output_size, patches)
    return torch.bmm(rows.expand(len(patches), -1, -1), patches)


def mean_softmax(scores: Tensor, tokens: int, width: int) -> Tensor:
    """scores [F * N, M] -> the mean over the queries of every frame's softmax over its tokens [F, N], in float32."""
    scaled = scores.view(-1, tokens, scores.shape[-1]).float() * width**-0.5
    return scaled.softmax(1).mean(2)


def _weights(query: Tensor, block: Tensor) -> Tensor:
    """The averaged softmax row of every frame [step, N], for autograd."""
    _, tokens, width = block.shape
    return mean_softmax(F.linear(block.reshape(-1, width), query), tokens, width).to(block.dtype)


def _batched_weights(query: Tensor, patches: Tensor) -> Tensor:
    """The averaged softmax row of every frame [F, 1, N]."""
    scores = (query @ patches.transpose(1, 2)).float() * patches.shape[-1] ** -0.5
    return scores.softmax(-1).mean(1, keepdim=True).to(patches.dtype)
