"""What a mask function of transformers says, read from the pieces that it was put together from: nothing is evaluated."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers.masking_utils import causal_mask_function, or_masks


@dataclass(frozen=True, eq=False)
class MaskRule:
    """Causal rows, and what else bounds them.

    window: a row sees itself and the window - 1 rows before it. chunk: rows see their own chunk of so many rows, counted from
    behind `chunk_padding` int64 [B]. documents: number of the document of each row, int64 [B, S], `positions` [B, S] with it.
    unread: the function was not read, a layout must say it all.
    objection: the rest of a sentence that begins with the model; None: all of the above is the whole mask.
    """

    causal: bool = False
    window: int | None = None
    chunk: int | None = None
    chunk_padding: Tensor | None = None
    documents: Tensor | None = None
    positions: Tensor | None = None
    unread: bool = False
    objection: str | None = None


CAUSAL = MaskRule(causal=True)
_UNION = or_masks(causal_mask_function).__name__
_BLOCKS = "has a mask whose picture tokens see later ones (blocks), which longreel attention does not compute yet"


def unread(function: Callable, own: bool, local_size: int | None, config: Any) -> MaskRule:
    """Under torch.compile closures are not read. Transformers then takes every pass for packed; what it says of windows and
    chunks is their size, of blocks that they come last, and of functions that a model adds that there are some (`own`)."""
    chunks = local_size is not None and getattr(config, "attention_chunk_size", None) == local_size
    objection = None
    if function.__name__ == _UNION:
        objection = _BLOCKS
    elif own:
        objection = "has a mask function of its own, which is not read under torch.compile"
    return MaskRule(
        causal=True, unread=True, window=None if chunks else local_size, chunk=local_size if chunks else None,
        objection=objection,
    )  # fmt: skip


def read(function: Callable) -> MaskRule:
    """Of a function that ``transformers.masking_utils`` composed; anything else gives an objection."""
    rule = _read(function, MaskRule())
    if rule.objection is None and not rule.causal:
        return replace(rule, objection="attends in both directions, longreel attention is causal or under a layout")
    return rule


def _read(function: Callable, rule: MaskRule) -> MaskRule:
    if function is causal_mask_function:
        return replace(rule, causal=True)
    name = getattr(function, "__qualname__", type(function).__name__)
    piece = name.split(".<locals>")[0] if getattr(function, "__module__", "") == causal_mask_function.__module__ else ""
    held = _closure(function)
    if piece == "and_masks":
        for part in held["mask_functions"]:
            rule = _read(part, rule)
        return rule
    if piece == "sliding_window_overlay":
        return replace(rule, window=min(int(held["sliding_window"]), rule.window or int(held["sliding_window"])))
    if piece == "chunked_overlay" and rule.chunk is None:
        return replace(rule, chunk=int(held["chunk_size"]), chunk_padding=held["left_padding"])
    if piece == "packed_sequence_mask_function":
        return replace(rule, documents=held["packed_sequence_mask"])
    if piece == "remap_positions_for_packed_sequence":
        # Inside a document positions are consecutive, so a mask of differences of positions is one of rows.
        return _read(held["mask_function"], replace(rule, positions=held["position_ids"]))
    if piece in ("or_masks", "blockwise_overlay"):
        objection = _BLOCKS
    elif piece.startswith(("bidirectional", "sliding_window_bidirectional")):
        objection = "attends in both directions, longreel attention is causal or under a layout"
    else:
        objection = f"has a mask function that longreel attention does not know ({name})"
    return replace(rule, objection=rule.objection or objection)


def _closure(function: Callable) -> dict[str, Any]:
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    return dict(zip(code.co_freevars, (cell.cell_contents for cell in cells), strict=True)) if code else {}
