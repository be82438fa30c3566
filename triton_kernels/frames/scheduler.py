"""Order of work of the kernels over frames, and who does what comes after a frame's scores. Nobody ever waits.

A pass has two kinds of work: a tile of scores of one frame, and a slice of channels of one group of frames, which sweeps
the patches again and needs the group's scores. A step of the order holds the slices of the group `lag` steps before, then
the tiles of its own group. With groups of one frame and lag 2:

    tiles 0 | tiles 1 | slices 0, tiles 2 | slices 1, tiles 3 | slices 2 | slices 3

The last tile of a frame to finish turns its scores into weights; the last frame of a group then visits the group's slices.
Each slice has a counter that both its own program and this visitor raise: the one that comes second does the slice, since
by then its scores are there. Most often that is the slice's own program. If it came too early it ends at once, and the
visitor does the slice. Every slice is done once, by code that gives the same bits whoever runs it, in any order of
programs, on any number of multiprocessors: there is no flag to wait for, so nothing can hang.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

# what changes with the number or the length of frames compiles nothing anew
VARYING = (
    "first", "lag", "frames", "all_frames", "group", "groups", "tokens", "weights_prompt", "dweights_prompt",
)  # fmt: skip
# one prompt is told from several; how many compiles nothing anew. Of queries multiples of 16 are read in wide pieces.
VARYING_BEYOND_ONE = ("prompts",)


@triton.jit
def scheduled(table, program, frames, parts, slices, group, lag):
    """(frame, tile) of scores or (group, -1 - slice) of a sweep; a negative place is no work. `table`, if given, lists them."""
    if table is not None:
        entry = table + program.to(tl.int64) * 2
        place = tl.load(entry)
        tile = tl.load(entry + 1)
    else:
        size = slices + group * parts
        step = program // size
        item = program % size
        part = item - slices
        frame = step * group + part // parts
        swept = tl.where(step - lag < tl.cdiv(frames, group), step - lag, -1)
        place = tl.where(part < 0, swept, tl.where(frame < frames, frame, -1))
        tile = tl.where(part < 0, -1 - item, part % parts)
    return place, tile


@triton.jit
def arrive(counter, parties):
    """Whether this program is the last of `parties`; it then reads what the others wrote before."""
    tl.debug_barrier()
    return tl.atomic_add(counter, 1, sem="acq_rel") == parties - 1


@dataclass(frozen=True)
class FrameSchedule:
    """What the programs of a pass do: `table` int32 [programs, 2] for packed patches, None where it follows from sizes;
    `launches` are (first program, programs)."""

    table: Tensor | None
    lag: int
    launches: tuple[tuple[int, int], ...]


def frames_schedule(frames: int, parts: int, slices: int, group: int, lag: int) -> FrameSchedule:
    """Frames of one length. Where all of them fit between scores and sweeps, the sweeps are a launch of their own."""
    groups = -(-frames // group)
    size = slices + group * parts
    if slices == 0:
        return FrameSchedule(None, 0, ((0, groups * size),))
    if groups <= lag:
        return FrameSchedule(None, groups, ((0, groups * size), (groups * size, groups * size)))
    return FrameSchedule(None, lag, ((0, (groups + lag) * size),))


def packed_schedule(
    cu_seqlens: Tensor, total: int, token_tile: int, slices: int, group: int, ahead: int
) -> FrameSchedule:
    """Frames of lengths that only the device knows; sweeps come `ahead` tiles after their scores.

    There are at most total // token_tile + F tiles, since every frame, an empty one too, has one that is not full.
    """
    device = cu_seqlens.device
    frames = cu_seqlens.shape[0] - 1
    groups, most = -(-frames // group), total // token_tile + frames
    # [F]
    tiles = ((cu_seqlens.diff() + token_tile - 1) // token_tile).clamp(min=1)
    ends = tiles.cumsum(0)
    # [most]
    tile = torch.arange(most, device=device)
    frame = torch.searchsorted(ends, tile, right=True)
    known = frame < frames
    within = tile - (ends - tiles)[frame.clamp(max=frames - 1)]
    scored = torch.stack((torch.where(known, frame, -1), within), 1)
    if slices == 0:
        return FrameSchedule(scored.int(), 0, ((0, most),))
    last = torch.arange(groups, device=device).add(1).mul(group).clamp(max=frames) - 1
    # [groups], the tile before which a group's slices stand
    due = (ends[last] + min(ahead, most)).clamp(max=most)
    number = torch.arange(groups * slices, device=device)
    swept = torch.stack((number // slices, -1 - number % slices), 1)
    table = torch.empty(most + groups * slices, 2, dtype=torch.int32, device=device)
    table[tile + slices * torch.searchsorted(due, tile, right=True)] = scored.int()
    table[due[number // slices] + number] = swept.int()
    if ahead >= most:
        return FrameSchedule(table, 0, ((0, most), (most, groups * slices)))
    return FrameSchedule(table, 0, ((0, most + groups * slices),))
