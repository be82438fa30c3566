"""Mask functions of transformers by what they were made of: the function that made one, and what it holds."""

from collections.abc import Callable
from typing import Any

from transformers.masking_utils import causal_mask_function


def name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def piece_of(function: Callable[..., Any]) -> str:
    """The name of the function of ``transformers.masking_utils`` that made `function`; "": none."""
    own = getattr(function, "__module__", "") == causal_mask_function.__module__
    return name_of(function).split(".<locals>")[0] if own else ""


def held_by(function: Callable[..., Any]) -> dict[str, Any]:
    """The values of its closure, by name."""
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    return dict(zip(code.co_freevars, (cell.cell_contents for cell in cells), strict=True)) if code else {}
