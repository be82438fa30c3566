"""Edits of a video's bytes, for what no writer would write."""

import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from encoded import numbers

from longreel.data import MediaWarning, frames

Stamps = Callable[[int, int], int]


def read(path: Path, spec: str = "fps:25", **options: object) -> tuple[list[int], list[float], list[str]]:
    """The numbers of the frames that came, their times, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chunks = list(frames(path, spec, **options))  # type: ignore[arg-type]
    assert all(issubclass(item.category, MediaWarning) and "\n" not in str(item.message) for item in caught)
    times = [time for chunk in chunks for time in chunk.times.tolist()]
    return numbers(torch.cat([chunk.pixels for chunk in chunks])), times, [str(item.message) for item in caught]


def restamp_flv(data: bytes, stamps: Stamps) -> bytes:
    """An FLV whose k-th picture has the decoding time stamps(k, old) in milliseconds."""
    out, place, count = bytearray(data), 13, 0
    while place + 11 <= len(out):
        size = int.from_bytes(out[place + 1 : place + 4], "big")
        if out[place] == 9 and out[place + 12] == 1:
            old = int.from_bytes(out[place + 4 : place + 7], "big")
            out[place + 4 : place + 7] = stamps(count, old).to_bytes(3, "big")
            count += 1
        place += 11 + size + 4
    assert count
    return bytes(out)


def flv_duration(data: bytes, seconds: float) -> bytes:
    place = data.index(b"duration") + 9
    return data[:place] + struct.pack(">d", seconds) + data[place + 8 :]


def restamp_ts(data: bytes, stamps: Stamps) -> bytes:
    """A transport stream whose k-th picture's stamps, presentation and decoding, are stamps(k, old) in ticks of 1/90000 s."""
    out, count = bytearray(data), 0
    for start in range(0, len(out), 188):
        if not out[start + 1] & 0x40:
            continue
        body = start + 4 + (1 + out[start + 4] if out[start + 3] & 0x20 else 0)
        if out[body : body + 3] != b"\0\0\1" or out[body + 3] & 0xF0 != 0xE0:
            continue
        for place in (body + 9, body + 14)[: (0, 0, 1, 2)[out[body + 7] >> 6]]:
            _put_stamp(out, place, stamps(count, _stamp(out, place)) % (1 << 33))
        count += 1
    assert count
    return bytes(out)


def _stamp(data: bytearray, place: int) -> int:
    a, b, c, d, e = data[place : place + 5]
    return (a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1


def _put_stamp(data: bytearray, place: int, stamp: int) -> None:
    data[place] = data[place] & 0xF1 | (stamp >> 30 & 7) << 1
    data[place + 1] = stamp >> 22 & 255
    data[place + 2] = (stamp >> 15 & 127) << 1 | 1
    data[place + 3] = stamp >> 7 & 255
    data[place + 4] = (stamp & 127) << 1 | 1


def with_matrix(data: bytes, matrix: tuple[float, float, float, float]) -> bytes:
    """An MP4 with x' = a x + c y, y' = b x + d y in its (first) track header."""
    a, b, c, d = (round(value * 65536) for value in matrix)
    place = data.index(b"tkhd") + 4 + 40
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return data[:place] + b"".join(value.to_bytes(4, "big", signed=True) for value in values) + data[place + 36 :]
