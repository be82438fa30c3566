"""A layout as calls of flash attention: in each, sequences of rows that attend to all of their keys, or a causal square.

A row's keys are what stands before its segment and is visible to all of it, the causal square of the segment itself, and a
range of G, which begins where that of its neighbours begins and ends later. Such nested ranges are cut by the bits of their
length in blocks, 5 = 4 + 1: the rows of a bit share few long runs of keys, which are read in place, and what is shorter
than a block is copied for every segment. No row stands twice in one call.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longreel.layout import VideoLayout
from longreel.layout._modes import ordinary_tensors
from longreel.layout._ranges import Ranges, ranges
from longreel.layout.step_rows import StepRows

BLOCK = 128  # keys of G that fill a tile of a kernel
MOST_SEQUENCES = 65_535  # of a call: a dimension of a CUDA grid

Span = tuple[int, int]


class Sequence(NamedTuple):
    """Query rows `rows` of `sample` (of every sample where the layout has one), and their keys first .. last."""

    sample: int
    rows: tuple[Span, ...]
    first: int
    last: int

    @property
    def length(self) -> int:
        return sum(end - begin for begin, end in self.rows)


class Piece(NamedTuple):
    """The sequences of one call, over K or over G. causal: row i of a sequence attends to its keys up to the i-th."""

    is_global: bool
    causal: bool
    sequences: tuple[Sequence, ...]


class FlashCall(NamedTuple):
    """A piece on a device. rows and keys of the flattened batch: a range, or int64 indices; cu_q, cu_k int32 [n + 1] say where
    the n sequences end in them, lengths how many rows and keys each has."""

    is_global: bool
    causal: bool
    rows: slice | Tensor
    keys: slice | Tensor
    cu_q: Tensor
    cu_k: Tensor
    lengths: tuple[Span, ...]

    @property
    def max_q(self) -> int:
        return max(rows for rows, _ in self.lengths)

    @property
    def max_k(self) -> int:
        return max(keys for _, keys in self.lengths)


def ranges_of(layout: VideoLayout | StepRows) -> Ranges:
    own: Ranges = layout.ranges if isinstance(layout, StepRows) else ranges(layout)
    return own


@lru_cache(maxsize=16)
def pieces(layout: VideoLayout | StepRows) -> tuple[Piece, ...]:
    """The calls that make up the layout: O(segments log segments) sequences."""
    # (over G, causal, level) -> (sample, first key, last key) -> rows
    found: dict[tuple[bool, bool, int], dict[tuple[int, int, int], list[Span]]] = {}
    for sample, row, rows, lo, _, hi, up, carry, over, glo, ghi in ranges_of(layout).table().tolist():
        own = hi - 1 + (carry // over)
        # Rows of a block attend to the same keys; others one more than the row before.
        square = rows > 1 and up > 0 and lo <= own
        parts = [((False, False, 0), lo, own if rows > 1 and up > 0 else own + 1)]
        parts += [((False, True, 0), own, own + rows)] if square else []
        parts += [((True, False, level), first, last) for level, first, last in _nested(glo, ghi)]
        for kind, first, last in parts:
            if first < last:
                found.setdefault(kind, {}).setdefault((sample, first, last), []).append((row, row + rows))
    # A call's grid is as long as its longest sequence: those of about one length go together.
    alike: dict[tuple[bool, bool, int, int], list[Sequence]] = {}
    for kind, keys in found.items():
        for (sample, first, last), spans in keys.items():
            sequence = Sequence(sample, tuple(_joined(spans)), first, last)
            alike.setdefault((*kind, sequence.length.bit_length()), []).append(sequence)
    return tuple(Piece(is_global, causal, tuple(made)) for (is_global, causal, *_), made in alike.items())


def executed_pairs(layout: VideoLayout | StepRows) -> int:
    """(query row, key) pairs of one head that torch's CPU kernel multiplies, over all samples: blocks of rows, each with the
    blocks of 512 keys up to its last row where the piece is causal."""
    pairs = 0
    for piece in pieces(layout):
        for sequence in piece.sequences:
            rows, keys = sequence.length, sequence.last - sequence.first
            block = 256 if rows >= 768 else 64 if rows >= 192 else 32
            starts = range(0, rows, block)
            reach = (min(keys, -(-(start + block) // 512) * 512) if piece.causal else keys for start in starts)
            pairs += sum(min(block, rows - start) * end for start, end in zip(starts, reach, strict=True))
    return pairs


@lru_cache(maxsize=16)
@ordinary_tensors()
def calls(
    layout: VideoLayout | StepRows, batch: int, keys: int, places: int, device: torch.device
) -> tuple[FlashCall, ...]:
    """The pieces of the layout for `batch` samples, each of `keys` rows of K and `places` of G."""
    made = []
    for piece in pieces(layout):
        # (sample of the batch, sequence)
        several = range(batch if layout.batch_size == 1 else 1)
        sequences = [(b + sequence.sample, sequence) for b in several for sequence in piece.sequences]
        for i in range(0, len(sequences), MOST_SEQUENCES):
            rows, keyed, lengths = [], [], []
            for b, sequence in sequences[i : i + MOST_SEQUENCES]:
                first = b * (places if piece.is_global else keys)
                rows += [(b * layout.queries + begin, b * layout.queries + end) for begin, end in sequence.rows]
                keyed.append((first + sequence.first, first + sequence.last))
                lengths.append((sequence.length, sequence.last - sequence.first))
            ends = np.cumsum([(0, 0), *lengths], axis=0, dtype=np.int32)
            cu_q, cu_k = (torch.tensor(column, device=device) for column in ends.T)
            where = _places(rows, device), _places(keyed, device)
            made.append(FlashCall(piece.is_global, piece.causal, *where, cu_q, cu_k, tuple(lengths)))
    return tuple(made)


def _nested(first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """(level, begin, end): the parts of first .. last, largest first: one for each bit of its blocks, then what is left."""
    blocks = (last - first) // BLOCK
    for level in reversed(range(blocks.bit_length())):
        if blocks >> level & 1:
            yield level + 1, first, (first := first + (BLOCK << level))
    yield 0, first, last


def _joined(spans: list[Span]) -> list[Span]:
    """Spans in order, those that touch as one."""
    made = spans[:1]
    for begin, end in spans[1:]:
        if begin == made[-1][1]:
            made[-1] = made[-1][0], end
        else:
            made.append((begin, end))
    return made


def _places(spans: list[Span], device: torch.device) -> slice | Tensor:
    """What the spans hold, in order: a range where they touch, else int64 indices."""
    joined = _joined(spans)
    if len(joined) == 1:
        return slice(*joined[0])
    return torch.from_numpy(np.concatenate([np.arange(*span) for span in joined])).to(device)
