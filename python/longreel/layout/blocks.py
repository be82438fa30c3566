"""Documents whose rows may attend to later ones: blocks inside causal rows, windows and chunks, from sets of keys row by row."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longreel.layout import probes, row_sets
from longreel.layout.numbers import count, flag
from longreel.layout.row_sets import Ints, RowSets
from longreel.layout.segments import Document, Rule, Segment, joined

Ids = Sequence[int] | Sequence[Sequence[int]] | Tensor | np.ndarray


def blocks(ids: Ids, window: int | None, chunk: int | None, causal: bool) -> tuple[tuple[Document, ...], ...]:
    """Per sample a document; see VideoLayout.blocks."""
    flag("causal", causal)
    table = np.asarray(ids.detach().cpu() if isinstance(ids, torch.Tensor) else ids)
    table = table[None] if table.ndim == 1 else table
    if table.ndim != 2 or not (table.size == 0 or np.issubdtype(table.dtype, np.integer)):
        raise ValueError(f"ids is an integer array [S] or [B, S], given {table.dtype} {list(table.shape)}")
    window = window if window is None else count("window", window, 1)
    chunk = chunk if chunk is None else count("chunk", chunk, 1)
    rule = Rule("ranges", window=window, chunk=chunk, grows=causal)
    return tuple((_blocks(own.astype(np.int64), rule),) for own in table)


def from_mask(
    function: Callable[..., Any], length: int, batch: int, device: Any, vmap: bool
) -> tuple[tuple[Document, ...], ...]:
    """Per sample a document; see VideoLayout.from_mask."""
    rule = Rule("ranges", grows=False)
    return tuple(
        (document(sets, rows, rule),) for rows, sets in probes.from_mask(function, length, batch, device, vmap)
    )


def _blocks(ids: Ints, rule: Rule) -> Document:
    row = np.arange(len(ids))
    sets = row_sets.groups(row, ids)
    if rule.grows:
        sets = row_sets.bounded(row_sets.either(row_sets.causal(row), sets), row, rule.window, rule.chunk)
    else:
        sets = row_sets.bounded(sets, row, None, rule.chunk)
        sets = sets if rule.window is None else row_sets.both(sets, row_sets.around(row, rule.window - 1))
    return document(sets, len(ids), rule, ids >= 0)


def document(sets: RowSets, rows: int, rule: Rule, vision: np.ndarray | None = None, first: int = 0) -> Document:
    """A document of so many rows, of which those from `first` on see `sets`; the rows before are causal.

    vision: bool [rows], the kind of each; None: text.

    Raises:
        TwoRanges: two ranges a row do not hold it.
    """
    if rows == 0:
        return Document((), Rule("text"))
    row = np.arange(first, rows)
    whole = row_sets.settled(sets, rows)
    lines = row_sets.lines(whole, row)
    before = ((first, 0, 0, 1, 1, 0, 0),) if first else ()
    used = bool((whole.glo < whole.ghi).any())
    return Document(_segments(rows, vision), rule, before + lines, row_sets.consecutive(whole.members) if used else ())


def _segments(rows: int, vision: np.ndarray | None) -> tuple[Segment, ...]:
    if vision is None:
        return (Segment("text", rows),)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(vision)) + 1])
    ends = np.append(starts[1:], rows)
    kinds = ["vision" if vision[at] else "text" for at in starts]
    return joined(
        Segment(kind, int(end - begin))  # type: ignore[arg-type]
        for kind, begin, end in zip(kinds, starts, ends, strict=True)
    )
