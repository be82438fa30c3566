"""Model classes that transformers gives no attention from outside: refused when they are made, in one line."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import nn


def check_classes(base: Any, name: str, chosen: Callable[[], object]) -> None:
    """From now on the question of transformers' model class `base`, whether a class has an attention, is answered for `name`
    too; `chosen` is called for each model that gets it."""
    asked = base.get_correct_attn_implementation
    if hasattr(asked, "__wrapped__"):
        return

    @wraps(asked)
    def answer(self: Any, requested_attention: str | None, *args: Any, **kwargs: Any) -> str:
        if requested_attention == name:
            chosen()
            reason = refusal(type(self), name)
            if reason is not None:
                raise ValueError(reason)
        return asked(self, requested_attention, *args, **kwargs)

    base.get_correct_attn_implementation = answer


def refusal(model: type, name: str) -> str | None:
    """Why a class cannot take the attention `name`; None: it may."""
    module = sys.modules.get(model.__module__)
    space = vars(module) if module is not None else {}
    tables = [
        key
        for key, value in space.items()
        if key.endswith("ATTENTION_CLASSES") and isinstance(value, dict) and name not in value
    ]
    if any("VISION" not in key or "Vision" in model.__name__ for key in tables):
        return f"{model.__name__} chooses among attention classes of its own; allowed: {', '.join(map(repr, space[tables[0]]))}"
    own = [value for key, value in space.items() if isinstance(value, type) and _attends(value, model.__module__)]
    if own and not any(_open(value) for value in own):
        return f"{model.__name__} computes its attention itself ({own[0].__name__}) and takes none from outside; allowed: 'eager'"
    return None


def _attends(value: type, module: str) -> bool:
    return issubclass(value, nn.Module) and value.__module__ == module and "Attention" in value.__name__


def _open(value: type) -> bool:
    """Whether an attention class, or one that it derives from, stands in a module that asks transformers' interface."""
    return any("ALL_ATTENTION_FUNCTIONS" in vars(sys.modules.get(base.__module__, object)) for base in value.__mro__)
