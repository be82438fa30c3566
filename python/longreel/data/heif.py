"""The primary picture of a HEIF file (HEIC of phones): one coded item, or a grid of them, turned and mirrored as it says.

FFmpeg decodes the items, each as a stream of its own; how they make a picture stands in the file's `meta` box (ISO/IEC
23008-12), which is read here.
"""

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from longreel.data.container import open_container
from longreel.data.errors import MediaError, check_room
from longreel.data.geometry import MAX_PIXELS, check_pixels
from longreel.data.picture import SCALING, UPRIGHT, oriented

_CODED = (b"hvc1", b"hev1", b"av01", b"avc1", b"jpeg")


class Grid(NamedTuple):
    """`items`, row by row, make a picture of `width` x `height`; what sticks out is cut off."""

    rows: int
    columns: int
    width: int
    height: int
    items: list[int]


class Aperture(NamedTuple):
    """What of a picture is to be shown: so much of it, and how far its middle is from the picture's, in pixels."""

    width: Fraction
    height: Fraction
    across: Fraction
    down: Fraction

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """[h, w, 3] to the part to be shown; ValueError where it is not inside."""
        height, width, _ = picture.shape
        left = round(self.across + (width - self.width) / 2)
        top = round(self.down + (height - self.height) / 2)
        across, down = int(self.width), int(self.height)
        if min(left, top, across - 1, down - 1) < 0 or left + across > width or top + down > height:
            raise ValueError("its clean aperture is not inside the picture")
        return picture[top : top + down, left : left + across]


Turn = tuple[int, int, int, int]


class Meta:
    """What a `meta` box says of the primary item: its `type`, its `turns` and cuts in order, the `aspect` of its pixels, and the
    `grid` it may be."""

    def __init__(self, file: bytes) -> None:
        meta = next(body for name, body in _boxes(file) if name == b"meta")
        boxes = dict(_boxes(meta[4:]))
        self._boxes, self._file = boxes, file
        primary = boxes[b"pitm"]
        self.primary = _number(primary[4:], 4 if primary[0] else 2)
        self.type = self._types()[self.primary]
        self.aspect = Fraction(1)
        self.turns = list(self._turns())
        self.grid = self._grid() if self.type == b"grid" else None

    def _types(self) -> dict[int, bytes]:
        table = self._boxes[b"iinf"]
        types = {}
        for _, entry in _boxes(table[8 if table[0] else 6 :]):
            wide = 4 if entry[0] > 2 else 2
            types[_number(entry[4:], wide)] = entry[6 + wide : 10 + wide]
        return types

    def _turns(self) -> Iterator[Turn | Aperture]:
        """Orientations and cuts to apply one after the other."""
        children = dict(_boxes(self._boxes[b"iprp"]))
        properties = list(_boxes(children[b"ipco"]))
        for number in self._associated(children[b"ipma"]):
            name, body = properties[number - 1]
            if name == b"irot":
                # Quarter turns anticlockwise.
                yield (UPRIGHT, (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[body[0] & 3]
                if body[0] & 1:
                    self.aspect = 1 / self.aspect
            elif name == b"imir":
                yield (-1, 0, 0, 1) if body[0] & 1 else (1, 0, 0, -1)
            elif name == b"clap":
                numbers = struct.unpack_from(">IIIIiIiI", body)
                yield Aperture(*map(Fraction, numbers[::2], numbers[1::2]))
            elif name == b"pasp":
                across, down = struct.unpack_from(">II", body)
                self.aspect *= Fraction(across, down)

    def _associated(self, table: bytes) -> list[int]:
        """The primary item's properties by number, in order."""
        wide, step = 4 if table[0] else 2, 2 if table[3] & 1 else 1
        place = 8
        for _ in range(_number(table[4:], 4)):
            item, count = _number(table[place:], wide), table[place + wide]
            place += wide + 1
            if item == self.primary:
                mask = 0x7FFF if step == 2 else 0x7F
                return [_number(table[place + step * i :], step) & mask for i in range(count)]
            place += count * step
        return []

    def _grid(self) -> Grid:
        body = self._data(self.primary)
        wide = 4 if body[1] & 1 else 2
        width, height = _number(body[4:], wide), _number(body[4 + wide :], wide)
        return Grid(body[2] + 1, body[3] + 1, width, height, self._parts())

    def _parts(self) -> list[int]:
        table = self._boxes[b"iref"]
        wide = 4 if table[0] else 2
        for name, body in _boxes(table[4:]):
            if name == b"dimg" and _number(body, wide) == self.primary:
                count = _number(body[wide:], 2)
                return [_number(body[wide + 2 + wide * i :], wide) for i in range(count)]
        return []

    def _data(self, wanted: int) -> bytes:
        """The bytes of an item that is described and not coded."""
        table = self._boxes[b"iloc"]
        version = table[0]
        offset_size, length_size = table[4] >> 4, table[4] & 15
        base_size, index_size = table[5] >> 4, table[5] & 15 if version else 0
        wide = 4 if version == 2 else 2
        place = 6 + wide
        for _ in range(_number(table[6:], wide)):
            item = _number(table[place:], wide)
            place += wide
            inside = bool(version) and _number(table[place:], 2) & 15 == 1
            place += (2 if version else 0) + 2
            base, place = _number(table[place:], base_size), place + base_size
            count, place = _number(table[place:], 2), place + 2
            for _ in range(count):
                place += index_size
                offset, place = _number(table[place:], offset_size), place + offset_size
                length, place = _number(table[place:], length_size), place + length_size
                if item == wanted:
                    source = self._boxes[b"idat"] if inside else self._file
                    return source[base + offset : base + offset + length]
        raise KeyError("iloc")


def read_heif(path: Path) -> tuple[np.ndarray, Fraction]:
    """[h, w, 3] uint8, and the width of its pixels over their height."""
    try:
        meta = Meta(path.read_bytes())
    except (KeyError, IndexError, StopIteration, ZeroDivisionError, struct.error) as error:
        raise MediaError(f"{path}: the image is damaged ({error or 'no meta box'})") from None
    if meta.grid is not None:
        check_pixels(path, meta.grid.width, meta.grid.height)
        wanted = meta.grid.items
        if len(wanted) != meta.grid.rows * meta.grid.columns:
            raise MediaError(f"{path}: the image is damaged (its grid lacks tiles)")
    elif meta.type in _CODED:
        wanted = [meta.primary]
    else:
        raise MediaError(
            f"{path}: a picture of type {meta.type.decode('latin-1')!r} cannot be shown: save it as PNG or JPEG"
        )
    decoded = _decode(path, wanted)
    if len(decoded) != len(set(wanted)):
        raise MediaError(f"{path}: the image is damaged (tiles missing: {len(set(wanted)) - len(decoded)})")
    picture = decoded[meta.primary] if meta.grid is None else _joined(path, meta.grid, decoded)
    try:
        for turn in meta.turns:
            picture = turn.cut(picture) if isinstance(turn, Aperture) else oriented(picture, turn)
    except ValueError as error:
        raise MediaError(f"{path}: the image is damaged ({error})") from None
    return np.ascontiguousarray(picture), meta.aspect


def _joined(path: Path, grid: Grid, tiles: dict[int, np.ndarray]) -> np.ndarray:
    height, width, _ = tiles[grid.items[0]].shape
    if any(tile.shape != (height, width, 3) for tile in tiles.values()):
        raise MediaError(f"{path}: the image is damaged (tiles differ in size)")
    check_pixels(path, width * grid.columns, height * grid.rows)
    rows = [
        np.concatenate([tiles[item] for item in grid.items[i * grid.columns :][: grid.columns]], 1)
        for i in range(grid.rows)
    ]
    return np.concatenate(rows)[: grid.height, : grid.width]


def _decode(path: Path, wanted: list[int]) -> dict[int, np.ndarray]:
    """The pictures [h, w, 3] of the items wanted."""
    decoded: dict[int, np.ndarray] = {}
    with open_container(path) as container:
        streams = [stream for stream in container.streams.video if stream.id in wanted]
        for stream in streams:
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        try:
            for packet in container.demux(streams):
                for frame in packet.decode():
                    if isinstance(frame, av.VideoFrame) and not frame.is_corrupt:
                        rgb = frame.reformat(format="rgb24", interpolation=SCALING)
                        decoded[packet.stream.id] = rgb.to_ndarray()
        except av.error.FFmpegError as error:
            check_room(error)
            raise MediaError(f"{path}: the image is damaged ({error.strerror or error})") from None
    return decoded


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        start = 8
        if size == 1:
            (size,), start = struct.unpack_from(">Q", data, place + 8), 16
        elif size == 0:
            size = len(data) - place
        if size < start:
            return
        yield name, data[place + start : place + size]
        place += size


def _number(data: bytes, size: int) -> int:
    if len(data) < size:
        raise IndexError("a box is cut short")
    return int.from_bytes(data[:size], "big")
