"""Frames, queries and their masks as kernels take them, and what the launches over frames share."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.common.card import PORTABLE_SHARED, Card, card_of
from longreel.triton_kernels.frames.config import FrameConfig
from longreel.triton_kernels.frames.scheduler import FrameSchedule, frames_schedule, packed_schedule
from torch import Tensor

# What the interpreter stands for: sweeps follow soon after the scores.
INTERPRETED = Card(1 << 20, PORTABLE_SHARED, 2, wgmma=False)
# bytes of a launch; an hour of 256 patches and 32 queries takes 113 MiB forward, 330 MiB backward
WORKSPACE = 512 << 20


class Patches(NamedTuple):
    """[F, N, C] or packed [total, C]: pointer and strides; `frame` None where frames are packed."""

    p: Any
    frame: Any
    token: Any
    channel: Any


class Query(NamedTuple):
    """[P, Q, M, C]: pointer and strides; `frame` None where one set serves every frame."""

    p: Any
    prompt: Any
    frame: Any
    query: Any
    channel: Any


class Mask(NamedTuple):
    """uint8 [P, Q, M]: not 0 where a query takes part."""

    p: Any
    prompt: Any
    frame: Any
    query: Any


def patches_of(tensor: Tensor) -> Patches:
    return Patches(tensor, *((None,) if tensor.dim() == 2 else ()), *tensor.stride())


def query_of(query: Tensor, begin: int, end: int) -> Query:
    """The queries of frames begin..end."""
    prompt, frame, row, channel = query.stride()
    several = query.shape[1] > 1
    return Query(frames_of(query, 1, begin, end), prompt, frame if several else None, row, channel)


def mask_of(mask: Tensor | None, begin: int, end: int) -> Mask | None:
    if mask is None:
        return None
    prompt, frame, query = mask.stride()
    of_frames = frames_of(mask, 1, begin, end).view(torch.uint8)
    return Mask(of_frames, prompt, frame if mask.shape[1] > 1 else 0, query)


def card(tensor: Tensor) -> Card:
    return card_of(tensor, INTERPRETED)


def schedule(config: FrameConfig, frames: int, tokens: int, slices: int, cu_seqlens: Tensor | None) -> FrameSchedule:
    """`tokens`: of a frame, or of all frames where they are packed."""
    if cu_seqlens is None:
        return frames_schedule(frames, config.parts(tokens), slices, config.group, config.lag)
    ahead = config.lag * config.group * config.parts(tokens // max(frames, 1))
    return packed_schedule(cu_seqlens, tokens, config.token_tile, slices, config.group, ahead)


def borders(cu_seqlens: Tensor | None, total: int) -> Tensor | None:
    """Borders of packed frames that never fall and lie within the `total` rows: nobody has looked at those on the device."""
    return None if cu_seqlens is None else cu_seqlens.clamp(0, total).cummax(0).values


def frames_at_once(frames: int, frame_bytes: int, group: int = 1) -> int:
    """Frames of one launch, in whole groups, whose workspace of `frame_bytes` each stays within WORKSPACE. In eights, so that
    tensors of later frames begin where reads are as wide as of the first, and compile nothing anew."""
    eights = max(1, 8 // group) * group
    step = eights if frame_bytes * eights <= WORKSPACE else group
    return min(frames, max(1, WORKSPACE // (frame_bytes * step)) * step)


def frames_of(tensor: Tensor, dim: int, begin: int, end: int) -> Tensor:
    """Frames begin..end of `tensor`, whose `dim` counts frames unless it has one entry for all of them."""
    return tensor if tensor.shape[dim] == 1 else tensor.narrow(dim, begin, end - begin)


@triton.jit
def frame_tokens(cu_seqlens, frame, tokens):
    """First row of the frame among all tokens, and how many it has."""
    if cu_seqlens is not None:
        first = tl.load(cu_seqlens + frame).to(tl.int64)
        count = (tl.load(cu_seqlens + frame + 1).to(tl.int64) - first).to(tl.int32)
    else:
        first = frame * tokens
        count = tokens
    return first, count


@triton.jit
def frame_start(patches, cu_seqlens, frame, row):
    """Where the frame's tokens begin; `row` is its first among all tokens, which packed frames count in."""
    if cu_seqlens is not None:
        p_x = patches.p + row * patches.token
    else:
        p_x = patches.p + frame * patches.frame
    return p_x


@triton.jit
def query_start(query, frame):
    """Where the queries of the first prompt begin."""
    p_q = query.p
    if query.frame is not None:
        p_q += frame * query.frame
    return p_q


@triton.jit
def mask_start(query_mask, prompt, frame):
    """Where the mask of a prompt's queries begins; None where all take part."""
    if query_mask is None:
        p_mask = None
    else:
        p_mask = query_mask.p + prompt * query_mask.prompt + frame * query_mask.frame
    return p_mask


@triton.jit
def valid(query_mask, p_mask, q, queries):
    """[BQ] Whether query q exists and takes part."""
    m_q = q < queries
    if query_mask is not None:
        m_q &= tl.load(p_mask + q.to(tl.int64) * query_mask.query, mask=m_q, other=0) != 0
    return m_q
