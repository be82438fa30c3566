"""Model classes that transformers gives no attention from outside: refused in one line when they are made or switched."""

import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from torch import nn

from longreel.integrations import keywords


def check_classes(base: Any, name: str, chosen: Callable[[], object]) -> None:
    """From now on two methods of transformers' model class `base` know what the attention `name` needs: the question whether a
    class has an attention, and the switch of a live model. `chosen` is called for each model that gets it."""
    asked, switched = base.get_correct_attn_implementation, base.set_attn_implementation
    if hasattr(asked, "__wrapped__"):
        return

    @wraps(asked)
    def answer(self: Any, requested_attention: str | None, *args: Any, **kwargs: Any) -> str:
        if requested_attention == name:
            chosen()
            refuse(type(self), name)
            _watch(self)
        return asked(self, requested_attention, *args, **kwargs)

    @wraps(switched)
    def switch(self: Any, attn_implementation: str | dict, *args: Any, **kwargs: Any) -> Any:
        # Configurations that are to say `name`, and what they say before; and models that are meant with them.
        wanted = [(part, part._attn_implementation) for part in _wanted(self.config, attn_implementation, name)]
        others = {id(part) for part in _parts(self.config)} - {id(part) for part, _ in wanted}
        meant = [
            (model, part, before)
            for part, before in wanted
            for model in self.modules()
            if isinstance(model, base) and type(model.config) is type(part) and id(model.config) not in others
        ]
        for model, _, _ in meant:
            refuse(type(model), name)
        result = switched(self, attn_implementation, *args, **kwargs)
        for model, part, before in meant:
            if model.config._attn_implementation != name:
                part._attn_implementation_internal = before
                raise ValueError(
                    f"transformers does not hand {name!r} on to the {type(model).__name__} inside {type(self).__name__}, which"
                    " would go on with its own attention"
                )
            _watch(model)
        return result

    base.get_correct_attn_implementation, base.set_attn_implementation = answer, switch


def check_towers(base: Any, name: str) -> None:
    """From now on transformers' model class `base` takes the attention `name`, which has "flash" in it, for what it is: one that
    is registered, not a package or a kernel to be loaded. Text is refused."""
    checked, switched = base._check_and_adjust_attn_implementation, base.set_attn_implementation
    if getattr(checked, "_longreel", False):
        return

    @wraps(checked)
    def check(self: Any, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        if attn_implementation != name:
            return checked(self, attn_implementation, *args, **kwargs)
        refuse(type(self), name)
        _refuse_text(self.config, name)
        return name

    @wraps(switched)
    def switch(self: Any, attn_implementation: str | dict, *args: Any, **kwargs: Any) -> Any:
        for part in _wanted(self.config, attn_implementation, name):
            _refuse_text(part, name)
        return switched(self, attn_implementation, *args, **kwargs)

    check._longreel = True  # type: ignore[attr-defined]
    base._check_and_adjust_attn_implementation, base.set_attn_implementation = check, switch


def _refuse_text(config: Any, name: str) -> None:
    inside = [key for key in getattr(config, "sub_configs", {}) if getattr(config, key, None) is not None]
    if not inside and getattr(config, "vocab_size", None) is not None:
        raise ValueError(
            f"{type(config).__name__} is of text: {name!r} is the attention of vision towers, as in"
            f' attn_implementation={{"text_config": "longreel", "vision_config": "{name}"}}'
        )


def _parts(config: Any) -> Iterator[Any]:
    """A configuration and all those inside it."""
    yield config
    for key in getattr(config, "sub_configs", {}):
        part = getattr(config, key, None)
        if part is not None:
            yield from _parts(part)


def _wanted(config: Any, asked: Any, name: str) -> Iterator[Any]:
    """The configuration and those inside it for which the attention `name` is asked."""
    if (asked.get("") if isinstance(asked, dict) else asked) == name:
        yield config
    for key in getattr(config, "sub_configs", {}):
        part = getattr(config, key, None)
        inner = asked.get(key) if isinstance(asked, dict) else asked
        if part is not None and inner is not None:
            yield from _wanted(part, inner, name)


def refuse(model: type, name: str) -> None:
    """
    Raises:
        ValueError: a class cannot take the attention `name`.
    """
    module = sys.modules.get(model.__module__)
    space = vars(module) if module is not None else {}
    tables = [
        key
        for key, value in space.items()
        if key.endswith("ATTENTION_CLASSES") and isinstance(value, dict) and name not in value
    ]
    if any("VISION" not in key or "Vision" in model.__name__ for key in tables):
        allowed = ", ".join(map(repr, space[tables[0]]))
        raise ValueError(f"{model.__name__} chooses among attention classes of its own; allowed: {allowed}")
    own = [value for value in space.values() if isinstance(value, type) and _attends(value, model.__module__)]
    if own and not any(_open(value) for value in own):
        raise ValueError(
            f"{model.__name__} computes its attention itself ({own[0].__name__}) and takes none from outside; allowed: 'eager'"
        )


def _watch(model: nn.Module) -> None:
    """From now on `model` refuses a video_layout that its layers would drop."""
    space = vars(sys.modules.get(type(model).__module__, object))
    layers = [value for key, value in space.items() if key.endswith("DecoderLayer") and isinstance(value, type)]
    drops = any(keywords.drops_others(layer.forward) for layer in layers)  # type: ignore[attr-defined]
    if drops and _no_layout not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_no_layout, with_kwargs=True)


def _no_layout(model: nn.Module, _: Any, given: dict[str, Any]) -> None:
    if given.get("video_layout") is not None:
        raise ValueError(
            f"{type(model).__name__} does not hand video_layout on to its attention: use `with longreel.use_layout(layout):`"
        )


def _attends(value: type, module: str) -> bool:
    return issubclass(value, nn.Module) and value.__module__ == module and "Attention" in value.__name__


def _open(value: type) -> bool:
    """Whether an attention class, or one that it derives from, stands in a module that asks transformers' interface."""
    return any("ALL_ATTENTION_FUNCTIONS" in vars(sys.modules.get(base.__module__, object)) for base in value.__mro__)
