"""A cut of a video: which of its tokens' places stay, and what stands there."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from longreel.compression import choose, merge, scores
from longreel.compression.frames import FrameFeatures, spans
from longreel.ops import adaptive_pool
from longreel.ops.common.queries import exact

METHODS = ("pool", "context", "evs", "vidcom2", "merge")


@dataclass(frozen=True)
class Cut:
    """kept: int64 [K], ascending, numbers among the T x N tokens whose places stay. parts: spans of frames that cover the video,
    and what a span's features [f, N, C] become, [k, C]."""

    kept: Tensor
    shape: tuple[int, int]
    parts: tuple[tuple[int, int, Callable[[Tensor], Tensor]], ...]

    def of(self, frames: FrameFeatures) -> Tensor:
        """[K, C] from features [T, N, C], in their dtype; a span is read at a time."""
        first = frames[:1]
        out = first.new_empty(len(self.kept), first.shape[-1])
        at = 0
        with exact(first.device):
            for a, b, part in self.parts:
                piece = part(frames[a:b])
                out[at : at + len(piece)] = piece
                at += len(piece)
        return out


def cut(
    frames: FrameFeatures,
    method: str,
    count: int,
    *,
    grid: tuple[int, int],
    query: Tensor | None = None,
    alive: Tensor | None = None,
) -> Cut:
    """How `method` leaves `count` of the tokens of a video ("pool": the largest grid a frame with no more than that).

    Args:
        frames: features ``[T, N, C]``.
        method: "pool", "context", "evs", "vidcom2" or "merge"; see `longreel.compress_video`.
        count: tokens that stay, from 1 to all.
        grid: (height, width) of a frame, N = height * width.
        query: ``[M, C]``, what "context" asks.
        alive: bool ``[T, N]``, tokens that are there at all; None: all.

    Raises:
        ValueError: what `method` cannot do here.
    """
    with exact(frames[:1].device):
        return _chosen(frames, method, count, grid, query, alive)


def _chosen(
    frames: FrameFeatures, method: str, count: int, grid: tuple[int, int], query: Tensor | None, alive: Tensor | None
) -> Cut:
    total, tokens, _ = frames.shape
    if alive is not None and bool(alive.all()):
        alive = None
    if count == (total * tokens if alive is None else int(alive.sum())):
        kept = torch.arange(total * tokens) if alive is None else alive.flatten().nonzero().flatten()
        return _selected(frames, kept)
    if method == "pool":
        if alive is not None:
            raise ValueError(
                "method 'pool' needs whole frames, and video_compression_mask drops some of their tokens already: give the"
                " processor use_token_compression=False, or take another method"
            )
        return _pooled(frames, grid, count)
    if method == "merge":
        return _merged(frames, count, alive)
    if method == "context":
        if query is None:
            raise ValueError("method 'context' needs a query [M, C]: what is asked of the video")
        found = scores.by_query(frames, query)
    elif method == "evs":
        found = scores.by_change(frames)
    else:
        found, unlike = scores.by_uniqueness(frames)
        _check(unlike)
        most = torch.full((total,), tokens) if alive is None else alive.sum(1)
        # VidCom2's share of a frame: keep * (1 + p_t - mean p), p = softmax(uniqueness / 0.01).
        p = (unlike / 0.01).softmax(0)
        counts = choose.share_out(count, 1 + p - p.mean(), most)
        return _selected(frames, choose.top_of_each(_only(found, alive), counts))
    found = _only(found, alive)
    _check(found)
    return _selected(frames, choose.top(found.flatten(), count))


def _check(scores: Tensor) -> None:
    if scores.isnan().any():
        raise ValueError("some tokens score NaN, and none can be chosen by that: the features hold NaN or infinity")


def _only(found: Tensor, alive: Tensor | None) -> Tensor:
    return found if alive is None else found.masked_fill(~alive.to(found.device), -torch.inf)


def _selected(frames: FrameFeatures, kept: Tensor) -> Cut:
    tokens, kept = frames.shape[1], kept.cpu()
    parts = []
    for a, b in spans(frames):
        here = kept[(kept >= a * tokens) & (kept < b * tokens)] - a * tokens
        parts.append((a, b, _select(here)))
    return _cut(frames, kept, parts)


def _select(here: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: x.flatten(0, 1)[here.to(x.device)]


def _merged(frames: FrameFeatures, count: int, alive: Tensor | None) -> Cut:
    """Each segment keeps its share of the tokens."""
    tokens = frames.shape[1]
    cells = torch.full((frames.shape[0],), tokens) if alive is None else alive.sum(1).cpu()
    segments = merge.segments(frames)
    most = torch.stack([cells[a:b].sum() for a, b in segments])
    counts = choose.share_out(count, most.clamp(min=1), most).tolist()
    # Made once: pieces that stay between those that go would let the heap grow with the video.
    kept, groups = torch.empty(count, dtype=torch.int64), torch.empty(frames.shape[0] * tokens, dtype=torch.int32)
    at, parts = 0, []
    for (a, b), n in zip(segments, counts, strict=True):
        there = None if alive is None else alive[a:b].flatten()
        anchors, of = merge.groups(frames[a:b], n, there)
        kept[at : at + n], groups[a * tokens : b * tokens] = anchors + a * tokens, of
        parts.append((a, b, _average(groups[a * tokens : b * tokens], n)))
        at += n
    return _cut(frames, kept, parts)


def _average(groups: Tensor, n: int) -> Callable[[Tensor], Tensor]:
    return lambda x: merge.averages(x.flatten(0, 1), groups.to(x.device).long(), n)


def _pooled(frames: FrameFeatures, grid: tuple[int, int], count: int) -> Cut:
    """The largest grid of the frame's shape, and of its cells the tokens in their middle."""
    total, tokens, _ = frames.shape
    (height, width), most = grid, count // total
    if most < 1:
        raise ValueError(f"method 'pool' leaves each of {total} frames a token at least, and {count} are to stay")
    rows, columns = _pooled_grid(height, width, most)
    down = (2 * torch.arange(rows) + 1) * height // (2 * rows)
    across = (2 * torch.arange(columns) + 1) * width // (2 * columns)
    places = (down[:, None] * width + across).flatten()
    kept = (torch.arange(total)[:, None] * tokens + places).flatten()

    def pool(x: Tensor) -> Tensor:
        return adaptive_pool(x, (rows, columns), grid=grid).flatten(0, 1)

    return _cut(frames, kept, [(a, b, pool) for a, b in spans(frames)])


def _pooled_grid(height: int, width: int, most: int) -> tuple[int, int]:
    """The most cells, at most `most`, of those grids that stretch a side by half at most; if none does, the least stretched."""

    def rank(shape: tuple[int, int]) -> tuple[bool, int, float]:
        tall = shape[0] * width / (shape[1] * height)
        stretch = max(tall, 1 / tall)
        return stretch <= 1.5, shape[0] * shape[1] if stretch <= 1.5 else 0, -stretch

    return max(((rows, min(width, most // rows)) for rows in range(1, min(height, most) + 1)), key=rank)


def _cut(frames: FrameFeatures, kept: Tensor, parts: Iterable[tuple[int, int, Callable[[Tensor], Tensor]]]) -> Cut:
    return Cut(kept, (frames.shape[0], frames.shape[1]), tuple(parts))
