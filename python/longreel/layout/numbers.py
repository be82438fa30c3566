"""Numbers that a layout is made of, where they enter."""

import operator
from typing import SupportsIndex

# Of a sample: more are days of video in pieces of a token, and take gigabytes before anything is planned.
MOST_SEGMENTS = 1 << 24
# Rows of a sample; a window, a ratio or a chunk of more is as good as this.
MOST_ROWS = 2**31 - 1
_LARGEST_TILE = 2**31


def integer(name: str, value: SupportsIndex | object) -> int:
    """`value` as Python's own integer: numpy's have a width, and wrap in it.

    Raises:
        TypeError: it is no integer.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise TypeError(f"{name} is a whole number; given {value!r}")


def flag(name: str, value: object) -> bool:
    """TypeError for anything but True and False: "no" would count as yes."""
    if value is True or value is False:
        return bool(value)
    short = isinstance(value, str | int | float) and len(str(value)) < 40
    raise TypeError(f"{name} is {repr(value) if short else f'a {type(value).__name__}'}; allowed: True or False")


def count(name: str, value: SupportsIndex | object, least: int = 0, most: int = 2**63 - 1) -> int:
    """The same, from `least` to `most`: ValueError for another."""
    number = integer(name, value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} is beyond 64 bits")
    if number < least:
        raise ValueError(f"{name}={number} is below {least}")
    if number > most:
        raise ValueError(f"{name}={number} is above {most}")
    return number


def check_segments(number: int) -> None:
    if number > MOST_SEGMENTS:
        raise ValueError(f"a sample has at most {MOST_SEGMENTS} segments (2^24), given {number}")


def check_rows(number: int) -> None:
    if number > MOST_ROWS:
        raise ValueError(f"a sample has at most 2^31 - 1 rows, given {number}")


def tile_sizes(tile: object) -> tuple[int, int]:
    """A pair (query rows, keys), of at least 1 each: TypeError or ValueError for anything else."""
    if not isinstance(tile, tuple | list) or len(tile) != 2:
        raise TypeError(f"tile is a pair (query rows, keys); given {tile!r}")
    rows, keys = (count(f"tile's {name}", number, 1) for name, number in zip(("rows", "keys"), tile, strict=True))
    if max(rows, keys) > _LARGEST_TILE:
        raise ValueError(f"a tile has at least 1 row and 1 key, at most 2^31, given {tile!r}")
    return rows, keys
