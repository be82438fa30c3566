"""Patch features on disk: written frame by frame while a video streams, read back in chunks, never all in memory.

The file is plain safetensors: `features` [F, T, C] and `times` float64 [F], with what made them in its metadata. Other modalities
stand behind them by name: `audio` [A, ...] and `audio.times` float64 [A].
"""

import math
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from longreel.data.errors import MediaError
from longreel.data.prefetch import Prefetch
from longreel.files.foreign import ForeignError, shown
from longreel.files.tensors import TensorFile

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
        try:
            self._file = TensorFile(self.path, _LONGEST_HEADER)
        except ForeignError as error:
            raise MediaError(str(error)) from None
        try:
            self.about, (own, *others) = _read_header(self._file)
        except BaseException:
            self._file.close()
            raise
        self.shape: tuple[int, int, int] = own.shape  # type: ignore[assignment]
        self.dtype, self.others = own.dtype, tuple(other.name for other in others)
        self.counts = {other.name: other.shape[0] for other in others}
        self._own, self._span = own, [0, own.shape[0]]
        self._chunks = Prefetch(_read(self._file, own, others, chunk, pin, self._span), 1, "read")

    @property
    def expected(self) -> int:
        """Frames in the file."""
        return self.shape[0]

    def __next__(self) -> FeatureChunk:
        return next(self._chunks)

    def take(self, frames: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features [n, T, C] and times [n] of these frames, in place of any chunk; nothing else is read."""
        own = self._own
        features = torch.empty(len(frames), *own.shape[1:], dtype=own.dtype)
        for place, frame in enumerate(frames):
            _fill(self._file, features[place], own.start + frame * own.stride)
        return features, _times(self._file, own)[torch.tensor(frames, dtype=torch.int64)]

    def only(self, first: int, stop: int | None) -> None:
        """Give frames `first` to before `stop` alone, None: to the end. Before anything was read."""
        self._span[:] = first, min(self.shape[0], self.shape[0] if stop is None else stop)

    def close(self) -> None:
        self._chunks.close()
        self._file.close()

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
    def stride(self) -> int:
        """Bytes of one of the first dimension."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def end(self) -> int:
        return self.start + self.shape[0] * self.stride


def _times(file: TensorFile, place: _Place) -> Tensor:
    times = torch.empty(place.shape[0], dtype=torch.float64)
    _fill(file, times, place.end)
    if not bool(times.isfinite().all()) or bool((times.diff() < 0).any()):
        raise MediaError(f"{file.path}: contradicts itself, its times of {place.name} fall, or are no numbers")
    return times


def _read(
    file: TensorFile, own: _Place, others: Sequence[_Place], chunk: int, pin: bool, span: Sequence[int]
) -> Iterator[FeatureChunk]:
    with file:
        times = _times(file, own)
        following = [(other.name, _up_to(file, other)) for other in others]
        for _, reader in following:
            next(reader)
        for first in range(span[0], span[1], chunk):
            at = times[first : min(first + chunk, span[1])]
            features = torch.empty(len(at), *own.shape[1:], dtype=own.dtype, pin_memory=pin)
            _fill(file, features, own.start + first * own.stride)
            until = at[-1].item() if first + chunk < own.shape[0] else math.inf
            yield FeatureChunk(features, at, {name: reader.send(until) for name, reader in following})


def _up_to(file: TensorFile, place: _Place) -> Generator[tuple[Tensor, Tensor], float, None]:
    """For every time sent, the values not given before that begin no later, and their times."""
    times, given = _times(file, place), 0
    values = torch.empty(0, *place.shape[1:], dtype=place.dtype)
    while True:
        time = yield values, times[given - len(values) : given]
        count = int((times <= time).sum()) - given
        values = torch.empty(count, *place.shape[1:], dtype=place.dtype)
        _fill(file, values, place.start + given * place.stride)
        given += count


def _fill(file: TensorFile, tensor: Tensor, begin: int) -> None:
    try:
        file.fill(tensor, begin)
    except ForeignError as error:
        raise MediaError(str(error)) from None


def _read_header(file: TensorFile) -> tuple[Mapping[str, str], list[_Place]]:
    """Metadata, and where features [F, T, C] and others stand; MediaError for anything that is not a whole feature file."""
    path, about, entries = file.path, file.header.metadata, dict(file.header.entries)
    allowed = (FORMAT, FORMAT_WITH_OTHERS)
    if about.get("format") not in allowed:
        raise MediaError(
            f"{path}: not a feature file, its format is {about.get('format')!r}; this version reads"
            f" {' and '.join(map(repr, allowed))}"
        )
    places = list[_Place]()
    for name in ["features", *(name for name in entries if f"{name}.times" in entries)]:
        stamps = "times" if name == "features" else f"{name}.times"
        tensor, times = entries.pop(name, None), entries.pop(stamps, None)
        if tensor is None or times is None:
            raise MediaError(f"{path}: not a feature file, it has no {name} with {stamps}")
        if tensor.dtype not in DTYPES or not tensor.shape:
            raise MediaError(f"{path}: {name} is {tensor.dtype} {list(tensor.shape)}; allowed: {', '.join(DTYPES)}")
        if (times.dtype, times.shape, times.begin) != ("F64", tensor.shape[:1], tensor.end):
            raise MediaError(f"{path}: its header contradicts itself: {stamps} are not F64, one behind every {name}")
        places.append(_Place(name, tensor.shape, DTYPES[tensor.dtype], tensor.begin))
    if entries:
        raise MediaError(f"{path}: its header contradicts itself: {shown(next(iter(entries)))} has no times")
    if len(places[0].shape) != 3 or min(places[0].shape) < 1:
        raise MediaError(f"{path}: features of shape {list(places[0].shape)} hold no frames")
    return about, places
