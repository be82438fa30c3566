"""A system's options: how a field of `System.Options` is made and read."""

from dataclasses import field
from typing import Any, Literal, get_args, get_origin


def option(default: Any, help: str, *, least: int | None = None, tower: bool = False, sound: bool = False) -> Any:
    """A field of `System.Options`: the flag's help text, its smallest value, and whether it changes the tower's features, or
    what of the sound is heard."""
    return field(default=default, metadata={"help": help, "least": least, "tower": tower, "sound": sound})


def choices(hint: Any) -> tuple[str, ...]:
    """Of an option's type, a Literal or one that may be None; none of another."""
    literal = next((part for part in (hint, *get_args(hint)) if get_origin(part) is Literal), None)
    return get_args(literal)
