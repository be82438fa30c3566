"""HEIC files as phones write them: one picture or a grid of tiles, coded by x265."""

import re
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name) + body


def full(name: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return box(name, struct.pack(">I", version << 24 | flags), *parts)


def coded(picture: np.ndarray) -> tuple[bytes, bytes]:
    """The decoder's configuration box and the sample of a picture [h, w, 3]."""
    context = av.CodecContext.create("libx265", "w")
    context.height, context.width = picture.shape[:2]
    context.pix_fmt, context.time_base, context.framerate = "yuv444p", Fraction(1), Fraction(1)
    context.options = {"x265-params": "log-level=none:qp=4:info=0"}
    frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv444p")
    frame.pts, frame.time_base = 0, Fraction(1)
    stream = b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    units = [unit for unit in re.split(rb"\0*\0\0\x01", stream) if unit]
    heads = {unit[0] >> 1: unit for unit in units if unit[0] >> 1 in (32, 33, 34)}
    profile = heads[33].replace(b"\0\0\3", b"\0\0")[3:15]
    arrays = b"".join(struct.pack(">BHH", 0x80 | kind, 1, len(unit)) + unit for kind, unit in heads.items())
    config = b"\1" + profile + struct.pack(">HBBBBHBB", 0xF000, 0xFC, 0xFF, 0xF8, 0xF8, 0, 0x0F, len(heads)) + arrays
    sample = b"".join(struct.pack(">I", len(unit)) + unit for unit in units if unit[0] >> 1 < 32)
    return box(b"hvcC", config), sample


def heic(
    path: Path, tiles: list[np.ndarray], columns: int, turns: list[bytes], size: tuple[int, int] | None = None
) -> Path:
    """A HEIC of `tiles`, row by row; size (width, height) cuts the grid, None and one tile: no grid."""
    parts = [coded(tile) for tile in tiles]
    height, width = tiles[0].shape[:2]
    grid = size is not None
    ids = list(range(1, len(tiles) + 1))
    primary = len(tiles) + 1 if grid else 1
    entries = [full(b"infe", 2, 0, struct.pack(">HH", item, 0), b"hvc1\0") for item in ids]
    if size is not None:
        entries.append(full(b"infe", 2, 0, struct.pack(">HH", primary, 0), b"grid\0"))
    properties = [parts[0][0], full(b"ispe", 0, 0, struct.pack(">II", width, height)), *turns]
    if size is not None:
        properties.append(full(b"ispe", 0, 0, struct.pack(">II", *size)))
    # By number, from 1: the configuration, the size, the turns, the grid's size.
    own = [[1, 2] + ([] if grid else [3 + i for i in range(len(turns))]) for _ in ids]
    if grid:
        own.append([len(properties), *[3 + i for i in range(len(turns))]])
    associations = b"".join(
        struct.pack(">HB", item, len(numbers)) + bytes(numbers)
        for item, numbers in zip([*ids, primary] if grid else ids, own, strict=True)
    )
    idat = struct.pack(">BBBBHH", 0, 0, len(tiles) // columns - 1, columns - 1, *size) if size is not None else b""

    def meta(offset: int) -> bytes:
        located, place = b"", offset
        for item, (_, sample) in zip(ids, parts, strict=True):
            located += struct.pack(">HHHHII", item, 0, 0, 1, place, len(sample))
            place += len(sample)
        if grid:
            located += struct.pack(">HHHHII", primary, 1, 0, 1, 0, len(idat))
        return full(
            b"meta", 0, 0,
            full(b"hdlr", 0, 0, struct.pack(">I4s12x", 0, b"pict"), b"\0"),
            full(b"pitm", 0, 0, struct.pack(">H", primary)),
            full(b"iinf", 0, 0, struct.pack(">H", len(entries)), *entries),
            full(b"iref", 0, 0, box(b"dimg", struct.pack(f">HH{len(ids)}H", primary, len(ids), *ids))) if grid else b"",
            box(b"iprp", box(b"ipco", *properties), full(b"ipma", 0, 0, struct.pack(">I", len(own)), associations)),
            box(b"idat", idat) if grid else b"",
            full(b"iloc", 1, 0, struct.pack(">BBH", 0x44, 0, len(ids) + grid), located),
        )  # fmt: skip

    head = box(b"ftyp", b"heic\0\0\0\0mif1heic")
    length = len(head) + len(meta(0)) + 8
    path.write_bytes(head + meta(length) + box(b"mdat", *[sample for _, sample in parts]))
    return path


def irot(quarters: int) -> bytes:
    """Turned anticlockwise."""
    return box(b"irot", bytes([quarters]))


def imir(axis: int) -> bytes:
    """0: top and bottom change places; 1: left and right do."""
    return box(b"imir", bytes([axis]))


def clap(width: int, height: int, across: int = 0, down: int = 0) -> bytes:
    """What is to be seen, and how far its middle is from the picture's, in half pixels."""
    return box(b"clap", struct.pack(">IIIIiIiI", width, 1, height, 1, across, 2, down, 2))


def pasp(across: int, down: int) -> bytes:
    """Pixels so wide and so high."""
    return box(b"pasp", struct.pack(">II", across, down))
