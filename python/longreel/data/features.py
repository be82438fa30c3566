"""Patch features on disk: written frame by frame while a video streams, read back in chunks, never all in memory.

The file is plain safetensors: `features` [F, T, C] and `times` float64 [F], with what made them in its metadata. Other modalities
stand behind them by name: `audio` [A, ...] and `audio.times` float64 [A].
"""

import json
import math
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longreel.data.errors import MediaError
from longreel.data.prefetch import Prefetch

# Of frames alone, and with other modalities.
FORMAT, FORMAT_WITH_OTHERS = "longreel-features/1", "longreel-features/2"
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_LONGEST_HEADER = 1 << 20


class FeatureChunk(NamedTuple):
    """Frames in order: features [f, T, C]; times [f] float64, seconds since the first frame.

    others: by name, what belongs to no frame, and its times: up to the last of these frames, with the last chunk all the rest.
    """

    features: Tensor
    times: Tensor
    others: Mapping[str, tuple[Tensor, Tensor]] = {}


class FeatureStream(Iterator[FeatureChunk]):
    """A feature file, chunk by chunk, read ahead by ordinary reads: mapped pages would count as our memory.

    pin: into page-locked memory, from which a GPU copies while it computes.
    """

    def __init__(self, path: str | os.PathLike[str], *, chunk: int = 64, pin: bool = False) -> None:
        self.path = Path(path)
        self.about, (own, *others) = _read_header(self.path)
        self.shape: tuple[int, int, int] = own.shape  # type: ignore[assignment]
        self.dtype, self.others = own.dtype, tuple(other.name for other in others)
        self._chunks = Prefetch(_read(self.path, own, others, chunk, pin), 1)

    @property
    def expected(self) -> int:
        """Frames in the file."""
        return self.shape[0]

    def __next__(self) -> FeatureChunk:
        return next(self._chunks)

    def close(self) -> None:
        self._chunks.close()

    def __enter__(self) -> "FeatureStream":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def is_feature_file(path: str | os.PathLike[str]) -> bool:
    """By its name: an unreadable feature file should be called one."""
    return Path(path).suffix == ".safetensors"


class _Place(NamedTuple):
    """Where a tensor and its times stand in a file."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int

    @property
    def end(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def _times(path: Path, place: _Place) -> Tensor:
    times = torch.empty(place.shape[0], dtype=torch.float64)
    with path.open("rb", buffering=0) as file:
        file.seek(place.end)
        _fill(file, times)
    return times


def _read(path: Path, own: _Place, others: Sequence[_Place], chunk: int, pin: bool) -> Iterator[FeatureChunk]:
    times = _times(path, own)
    following = [(other.name, _up_to(path, other)) for other in others]
    for _, reader in following:
        next(reader)
    with path.open("rb", buffering=0) as file:
        file.seek(own.start)
        for first in range(0, own.shape[0], chunk):
            at = times[first : first + chunk]
            features = torch.empty(len(at), *own.shape[1:], dtype=own.dtype, pin_memory=pin)
            _fill(file, features)
            until = at[-1].item() if first + chunk < own.shape[0] else math.inf
            yield FeatureChunk(features, at, {name: reader.send(until) for name, reader in following})


def _up_to(path: Path, place: _Place) -> Generator[tuple[Tensor, Tensor], float, None]:
    """For every time sent, the values not given before that begin no later, and their times."""
    times, given = _times(path, place), 0
    with path.open("rb", buffering=0) as file:
        file.seek(place.start)
        values = torch.empty(0, *place.shape[1:], dtype=place.dtype)
        while True:
            time = yield values, times[given - len(values) : given]
            count = int((times <= time).sum()) - given
            values = torch.empty(count, *place.shape[1:], dtype=place.dtype)
            _fill(file, values)
            given += count


def _fill(file: FileIO, tensor: Tensor) -> None:
    if not tensor.numel():
        return
    view = tensor.view(torch.uint8).numpy().data.cast("B")
    while view:
        count = file.readinto(view)
        if not count:
            raise MediaError(f"{file.name}: ends early; it was cut while it was read")
        view = view[count:]


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header, and where its data starts; MediaError for anything else."""
    if not path.exists():
        raise MediaError(f"{path}: no such file")
    if not path.is_file():
        raise MediaError(f"{path}: is not a regular file")
    size = path.stat().st_size
    if size == 0:
        raise MediaError(f"{path}: the file is empty")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
            raise MediaError(f"{path}: not a feature file (no safetensors header)")
        text = file.read(length)
    try:
        header = json.loads(text)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise MediaError(f"{path}: not a feature file (no safetensors header)")
    return header, 8 + length


def check_whole(path: Path, size: int) -> None:
    """MediaError unless the file has as many bytes as its header promises."""
    there = path.stat().st_size
    if there != size:
        raise MediaError(f"{path}: cut short, {there} bytes of {size}")


def _read_header(path: Path) -> tuple[dict[str, str], list[_Place]]:
    """Metadata, and where features [F, T, C] and others stand; MediaError for anything that is not a whole feature file."""
    header, start = read_header(path)
    try:
        about, shape = dict(header.pop("__metadata__")), tuple(map(int, header["features"]["shape"]))
        names = ["features", *(name for name in header if f"{name}.times" in header)]
        places, at, stamped = list[_Place](), start, True
        for name in names:
            tensor, times = header.pop(name), header.pop("times" if name == "features" else f"{name}.times")
            places.append(_Place(name, tuple(map(int, tensor["shape"])), DTYPES[tensor["dtype"]], at))
            count, end = places[-1].shape[0], places[-1].end
            offsets = [*map(int, tensor["data_offsets"]), *map(int, times["data_offsets"])]
            stamped &= offsets == [at - start, end - start, end - start, end - start + 8 * count]
            stamped &= times["shape"] == [count] and times["dtype"] == "F64"
            at = end + 8 * count
    except (ValueError, KeyError, TypeError, IndexError):
        raise MediaError(f"{path}: not a feature file (its header is not one that `longreel extract` writes)") from None
    allowed = (FORMAT, FORMAT_WITH_OTHERS)
    if about.get("format") not in allowed:
        raise MediaError(
            f"{path}: its format is {about.get('format')!r}, this version reads {' and '.join(map(repr, allowed))}"
        )
    if len(shape) != 3 or min(shape) < 1:
        raise MediaError(f"{path}: features of shape {list(shape)} hold no frames")
    if not stamped or header:
        raise MediaError(f"{path}: its header contradicts itself")
    check_whole(path, at)
    return about, places
