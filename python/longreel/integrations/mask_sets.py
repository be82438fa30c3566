"""What a mask function of transformers shows every row, as a layout: read from its pieces, or probed where one is unknown."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor
from transformers.masking_utils import causal_mask_function

from longreel.integrations.pieces import held_by, piece_of
from longreel.layout import VideoLayout, row_sets
from longreel.layout.blocks import document
from longreel.layout.probes import Probe, probed
from longreel.layout.row_sets import Ints, RowSets, TwoRanges
from longreel.layout.segments import Document, Rule


class _Unknown(Exception):
    """A piece that is not one of transformers' own."""


def layout_of(
    function: Callable[..., Any],
    spans: list[tuple[int, int]],
    first: int,
    queries: int,
    keys: int,
    dropped: int,
    vmap: bool,
    device: Any,
) -> VideoLayout:
    """The layout of the rows first .. first + queries over `keys` keys, of which the first is key `dropped` of the function; of
    each sample those inside its span of `spans` are no padding.

    Raises:
        ValueError: two ranges a row do not hold it, or a row attends to keys behind the last row.
    """
    end, row = first + queries, np.arange(first, first + queries)

    def sample_of(b: int) -> Document:
        try:
            sets = row_sets.shifted(_sets(function, b, row + dropped, {}), dropped)
        except _Unknown:
            sets = probed(Probe(function, b, keys, device, dropped, vmap), row)
        if bool((np.minimum(sets.hi, keys) > end).any()):
            raise TwoRanges("rows attend to keys behind the last row")
        if spans[b] != (0, end):
            begin, stop = (np.full_like(row, at) for at in spans[b])
            sets = row_sets.both(sets, row_sets.interval(begin, stop))
        return document(sets, end, Rule("ranges", grows=False), first=first)

    try:
        samples = tuple((sample_of(b),) for b in range(len(spans)))
    except TwoRanges as error:
        raise ValueError(f"this model has a mask that longreel attention does not compute: {error}") from None
    return VideoLayout(samples[:1] if all(own == samples[0] for own in samples) else samples)


def _sets(function: Callable[..., Any], sample: int, row: Ints, at: dict[str, Ints]) -> RowSets:
    """What sample `sample` shows the rows int64 [n]; at: the positions of packed rows, inside whose documents only
    differences count."""
    if function is causal_mask_function:
        return row_sets.causal(row)
    piece, held = piece_of(function), held_by(function)
    if piece in ("and_masks", "or_masks"):
        parts = [_sets(part, sample, row, at) for part in held["mask_functions"]]
        join = row_sets.both if piece == "and_masks" else row_sets.either
        whole = parts[0]
        for part in parts[1:]:
            whole = join(whole, part)
        return whole
    if piece == "bidirectional_mask_function":
        return row_sets.everything(row)
    if piece == "sliding_window_overlay":
        return row_sets.last(row, int(held["sliding_window"]))
    if piece == "sliding_window_bidirectional_overlay":
        return row_sets.around(row, int(held["sliding_window"]))
    if piece == "chunked_overlay" and not at:
        return row_sets.chunk(row, int(held["chunk_size"]), int(held["left_padding"][sample]))
    if piece == "blockwise_overlay" and not at:
        return row_sets.groups(row, _row_of(held["block_sequence_ids"], sample))
    if piece == "packed_sequence_mask_function":
        return row_sets.groups(row, _row_of(held["packed_sequence_mask"], sample))
    if piece == "remap_positions_for_packed_sequence":
        return _sets(held["mask_function"], sample, row, {"positions": _row_of(held["position_ids"], sample)})
    raise _Unknown(piece)


def _row_of(table: Tensor, sample: int) -> Ints:
    own: Ints = table[sample].to("cpu").numpy().astype(np.int64)
    return own
