"""Foreign bytes: values that no reader expects, put into JSON, headers and files at random places."""

import json
import random
from collections.abc import Callable
from typing import Any

# In place of a value; as text, since JSON's own writer makes none of some.
VALUES = (
    "null", "true", "-1", "0", "1.5", "1e308", "1e999", "NaN", "Infinity", "-Infinity", str(2**31), str(2**63), "1" + "0" * 30,
    "1" + "0" * 400, "9" * 5000, '""', '"x"', '"\\ud800"', '"\\u0000"', '"/dev/zero"', "[]", "{}", "[[]]", "[" * 90 + "]" * 90,
    "[" * 100_000, '{"a": 1, "a": 2}', "tru", "",
)  # fmt: skip
_MARK = "\x01mutated\x01"


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every value in a tree of JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for name, each in inner for place in ((*at, name), *places(each, (*at, name)))]


def json_text(value: Any, draw: random.Random) -> str:
    """JSON with one or two values replaced, taken away, put twice or renamed."""
    tree = json.loads(json.dumps(value))
    raw = list[str]()
    for _ in range(draw.choice((1, 1, 1, 2))):
        found = places(tree)
        if not found:
            break
        *way, last = draw.choice(found)
        inside = tree
        for step in way:
            inside = inside[step]
        kind = draw.randrange(6)
        if kind == 0:
            del inside[last]
        elif kind == 1 and isinstance(inside, dict):
            inside[draw.choice(("x", "", "__class__", "features", "config", str(last) + ".times"))] = inside[last]
        elif kind == 2 and type(inside[last]) is int:
            inside[last] += draw.choice((-1, 1, 8, 2**20, 2**31, 2**62))
        else:
            raw.append(draw.choice(VALUES))
            inside[last] = _MARK
    text = json.dumps(tree)
    for one in raw:
        text = text.replace(json.dumps(_MARK), one, 1)
    return text


def file_bytes(data: bytes, draw: random.Random) -> bytes:
    """Bytes changed, cut, or doubled."""
    out = bytearray(data)
    kind = draw.randrange(4)
    if kind == 0 or not out:
        for _ in range(draw.choice((1, 1, 8))):
            out[draw.randrange(min(len(out), draw.choice((16, 600, len(out)))))] = draw.randrange(256)
    elif kind == 1:
        del out[draw.randrange(len(out)) :]
    elif kind == 2:
        start = draw.randrange(len(out))
        out[start : start + draw.choice((1, 8, 64))] = draw.choice((b"", b"\0" * 8, b"\xff" * 8))
    else:
        out[:8] = draw.choice((0, 1, 2, 7, 8, len(out), 2**31, 2**63, 2**64 - 1)).to_bytes(8, "little")
    return bytes(out)


def tensor_file(data: bytes, draw: random.Random, own: str | None = None) -> bytes:
    """A safetensors file with another header, or other bytes. own: the entry of its metadata that is JSON itself."""
    if draw.random() < 0.25:
        return file_bytes(data, draw)
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if own is not None and draw.random() < 0.6:
        header["__metadata__"][own] = json_text(json.loads(header["__metadata__"][own]), draw)
        text = json.dumps(header)
    else:
        text = json_text(header, draw)
    if draw.random() < 0.2:
        rest = draw.choice((rest[:-8], rest + bytes(8), bytes(len(rest)), b"\xff" * len(rest)))
    return len(text.encode()).to_bytes(8, "little") + text.encode() + rest


Mutate = Callable[[bytes, random.Random], bytes]
