"""What a mask function of transformers says, read from the pieces that it was put together from: nothing is evaluated."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers.masking_utils import causal_mask_function, or_masks

from longreel.integrations.pieces import held_by, piece_of


@dataclass(frozen=True, eq=False)
class MaskRule:
    """Causal rows, and what else bounds them.

    window: a row attends to itself and the window - 1 rows before it. chunk: rows attend to their own chunk of so many rows,
    counted from behind `chunk_padding` int64 [B]. documents: number of the document of each row, int64 [B, S], `positions`
    [B, S] with it.
    unread: the function was not read, a layout must say it all.
    function: the mask function where it is not all of the above; it is evaluated, under vmap where `vmap` is set.
    """

    causal: bool = False
    window: int | None = None
    chunk: int | None = None
    chunk_padding: Tensor | None = None
    documents: Tensor | None = None
    positions: Tensor | None = None
    unread: bool = False
    function: Callable[..., Any] | None = None
    vmap: bool = False


CAUSAL = MaskRule(causal=True)
_UNION = or_masks(causal_mask_function).__name__


def unread(function: Callable, own: bool, local_size: int | None, config: Any) -> MaskRule:
    """Under torch.compile closures are not read. Transformers then takes every pass for packed; what it says of windows and
    chunks is their size, of blocks that they come last, and of functions that a model adds that there are some (`own`).

    Raises:
        ValueError: there are blocks, or functions of the model's own.
    """
    chunks = local_size is not None and getattr(config, "attention_chunk_size", None) == local_size
    if function.__name__ == _UNION or own:
        raise ValueError(
            "this model's mask is not causal rows, windows and chunks alone (blocks of picture tokens attend to later ones), and"
            " is not read under torch.compile: run it uncompiled"
        )
    return MaskRule(
        causal=True, unread=True, window=None if chunks else local_size, chunk=local_size if chunks else None
    )


def read(function: Callable[..., Any], vmap: bool = False) -> MaskRule:
    """Of a function that ``transformers.masking_utils`` composed of causal rows, windows, chunks and documents; with anything
    else in it, it is to be evaluated."""
    rule = _read(function, MaskRule())
    if rule is None or not rule.causal:
        return MaskRule(function=function, vmap=vmap, documents=None if rule is None else rule.documents)
    return rule


def _read(function: Callable[..., Any], rule: MaskRule | None) -> MaskRule | None:
    """None: there is a piece that `MaskRule` does not say."""
    if rule is None:
        return None
    if function is causal_mask_function:
        return replace(rule, causal=True)
    piece, held = piece_of(function), held_by(function)
    if piece == "and_masks":
        whole: MaskRule | None = rule
        for part in held["mask_functions"]:
            whole = _read(part, whole)
        return whole
    if piece == "or_masks":
        # Blocks of pictures, in an input without any.
        parts = [part for part in held["mask_functions"] if not _no_blocks(part)]
        return _read(parts[0], rule) if len(parts) == 1 else None
    if piece == "sliding_window_overlay":
        return replace(rule, window=min(int(held["sliding_window"]), rule.window or int(held["sliding_window"])))
    if piece == "chunked_overlay" and rule.chunk is None:
        return replace(rule, chunk=int(held["chunk_size"]), chunk_padding=held["left_padding"])
    if piece == "packed_sequence_mask_function":
        return replace(rule, documents=held["packed_sequence_mask"])
    if piece == "remap_positions_for_packed_sequence":
        # Inside a document positions are consecutive, so a mask of differences of positions is one of rows.
        return _read(held["mask_function"], replace(rule, positions=held["position_ids"]))
    return None


def _no_blocks(function: Callable[..., Any]) -> bool:
    return piece_of(function) == "blockwise_overlay" and not bool((held_by(function)["block_sequence_ids"] >= 0).any())
