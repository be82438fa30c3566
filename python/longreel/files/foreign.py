"""The one reader of JSON that others wrote: bounded, of plain values, and of regular files alone."""

import json
import math
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from typing import Any

_DEEPEST = 64
_LARGEST = 32 << 20


class ForeignError(ValueError):
    """A file that others wrote cannot be used: one line saying which, and why."""


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """A regular file, to read. Others are refused: a pipe waits for ever, a folder and a device hold no data of ours.

    Raises:
        ForeignError: there is none, or it cannot be opened.
    """
    try:
        # Without waiting, should it be a pipe.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise ForeignError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ForeignError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ForeignError(f"{path}: is not a regular file")
    return os.fdopen(handle, "rb")


def check_regular(path: str | os.PathLike[str]) -> None:
    """ForeignError unless it is a regular file that can be opened."""
    open_regular(path).close()


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a file of JSON says.

    Raises:
        ForeignError: there is none, it cannot be read, or it is not as `parsed` takes it.
    """
    with open_regular(path) as file:
        try:
            data = file.read(_LARGEST + 1)
        except OSError as error:
            raise ForeignError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > _LARGEST:
        raise ForeignError(f"{path}: has more than {_LARGEST >> 20} MiB")
    try:
        return parsed(data)
    except ForeignError as error:
        raise ForeignError(f"{path}: cannot be read ({error})") from None


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tables that a file of JSON lines holds, each with what an error calls it: "PATH: line N".

    Raises:
        ForeignError: there is no such file, it cannot be read, or a line is no table as `parsed` takes it.
    """
    with open_regular(path) as file:
        number = 0
        while line := _line(path, file):
            number += 1
            where = f"{path}: line {number}"
            if len(line) > _LARGEST:
                raise ForeignError(f"{where} has more than {_LARGEST >> 20} MiB")
            try:
                yield where, parsed(line, sorts=(dict,))
            except ForeignError as error:
                raise ForeignError(f"{where} is no table of JSON: it {error}") from None


def _line(path: str | os.PathLike[str], file: BufferedReader) -> bytes:
    try:
        return file.readline(_LARGEST + 1)
    except OSError as error:
        raise ForeignError(f"{path}: cannot be read ({error.strerror})") from None


def parsed(text: str | bytes, *, sorts: tuple[type, ...] = (object,)) -> Any:
    """JSON as it is specified: finite numbers, one value a name, nested at most 64 deep.

    sorts: of Python's types, what it must be.

    Raises:
        ForeignError: it is none of this, without naming a file.
    """

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise ForeignError(f"holds {number[:20]}, which is no finite number")
        return value

    try:
        # As it is specified: in no other encoding of Unicode.
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(text, parse_constant=finite, parse_float=finite, object_pairs_hook=_table)
    except ForeignError:
        raise
    except RecursionError:
        raise ForeignError("is nested without end") from None
    except UnicodeDecodeError:
        raise ForeignError("is no text") from None
    except ValueError as error:
        raise ForeignError(f"is no JSON: {error}"[:200]) from None
    _check_depth(value)
    if not isinstance(value, sorts):
        raise ForeignError(f"is {shown(value)}, not what is expected there")
    return value


def shown(value: object) -> str:
    """A value in an error, cut short; of what is not printed as it stands the escape."""
    text = ascii(value) if any(0xD800 <= ord(one) < 0xE000 for one in str(value)[:100]) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def plain(text: str) -> str:
    """As UTF-8 takes it: of a name that is none, or of JSON that says so, lone surrogates as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def first_line(error: BaseException) -> str:
    """Of what an error says; its type where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ForeignError(f"has {shown(twice)} twice")
    return table


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ForeignError(f"is nested more than {_DEEPEST} deep")
