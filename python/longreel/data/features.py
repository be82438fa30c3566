"""Patch features on disk: written frame by frame while a video streams, read back in chunks, never all in memory.

The file is plain safetensors: `features` [F, T, C] and `times` float64 [F], with what made them in its metadata.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longreel.data.errors import MediaError
from longreel.data.prefetch import Prefetch

FORMAT = "longreel-features/1"
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# Digits of the final header are not known at the start: shapes and offsets fit in these spare bytes.
_SPARE = 256
_LONGEST_HEADER = 1 << 20


class FeatureChunk(NamedTuple):
    """Frames in order: features [f, T, C]; times [f] float64, seconds since the first frame."""

    features: Tensor
    times: Tensor


class FeatureWriter:
    """Appends chunks; the file appears under its name when `with` ends without an exception, otherwise not at all."""

    def __init__(
        self, path: str | os.PathLike[str], tokens: int, width: int, dtype: torch.dtype, about: Mapping[str, str]
    ) -> None:
        self.path = Path(path)
        self._shape, self._dtype = (tokens, width), dtype
        self._about = {"format": FORMAT, **about}
        self._times: list[float] = []
        self._room = -(-(len(self._header()) + _SPARE) // 64) * 64
        try:
            handle, name = tempfile.mkstemp(prefix=f".{self.path.name}-", suffix=".part", dir=self.path.parent)
        except OSError as error:
            raise MediaError(f"{self.path}: cannot be written ({error.strerror})") from None
        self._temporary = Path(name)
        self._file = os.fdopen(handle, "wb")
        self._file.write(bytes(8 + self._room))

    def add(self, features: Tensor, times: Tensor) -> None:
        """Append features [f, T, C] in the writer's dtype and their times [f]."""
        if features.shape[1:] != self._shape or features.dtype != self._dtype or len(features) != len(times):
            raise ValueError(
                f"features {tuple(features.shape)} {features.dtype} with {len(times)} times in a file of"
                f" {self._shape} {self._dtype}"
            )
        self._file.write(features.contiguous().view(torch.uint8).numpy().data)
        self._times += times.tolist()

    def __enter__(self) -> "FeatureWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._file.write(torch.tensor(self._times, dtype=torch.float64).numpy().data)
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little") + self._header().ljust(self._room))
        self._file.close()
        # mkstemp makes it private; an ordinary file has the rights that the user's mask leaves.
        mask = os.umask(0)
        os.umask(mask)
        self._temporary.chmod(0o666 & ~mask)
        os.replace(self._temporary, self.path)

    def _header(self) -> bytes:
        frames, (tokens, width) = len(self._times), self._shape
        end = frames * tokens * width * self._dtype.itemsize
        header = {
            "__metadata__": self._about,
            "features": {"dtype": _NAMES[self._dtype], "shape": [frames, tokens, width], "data_offsets": [0, end]},
            "times": {"dtype": "F64", "shape": [frames], "data_offsets": [end, end + 8 * frames]},
        }
        return json.dumps(header).encode()


class FeatureStream(Iterator[FeatureChunk]):
    """A feature file, chunk by chunk, read ahead by ordinary reads: mapped pages would count as our memory.

    pin: into page-locked memory, from which a GPU copies while it computes.
    """

    def __init__(self, path: str | os.PathLike[str], *, chunk: int = 64, pin: bool = False) -> None:
        self.path = Path(path)
        self.about, start, self.shape, self.dtype = _read_header(self.path)
        self._chunks = Prefetch(_read(self.path, start, self.shape, self.dtype, chunk, pin), 1)

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


def _read(
    path: Path, start: int, shape: tuple[int, int, int], dtype: torch.dtype, chunk: int, pin: bool
) -> Iterator[FeatureChunk]:
    frames, tokens, width = shape
    times = torch.empty(frames, dtype=torch.float64)
    with path.open("rb", buffering=0) as file:
        file.seek(start + frames * tokens * width * dtype.itemsize)
        _fill(file, times)
        file.seek(start)
        for first in range(0, frames, chunk):
            features = torch.empty(min(chunk, frames - first), tokens, width, dtype=dtype, pin_memory=pin)
            _fill(file, features)
            yield FeatureChunk(features, times[first : first + chunk])


def _fill(file: FileIO, tensor: Tensor) -> None:
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


def _read_header(path: Path) -> tuple[dict[str, str], int, tuple[int, int, int], torch.dtype]:
    """Metadata, where the data starts, [F, T, C] and dtype; MediaError for anything that is not a whole feature file."""
    header, start = read_header(path)
    try:
        about, features, times = dict(header["__metadata__"]), header["features"], header["times"]
        shape, dtype = tuple(map(int, features["shape"])), _DTYPES[features["dtype"]]
        offsets = (*map(int, features["data_offsets"]), *map(int, times["data_offsets"]))
    except (ValueError, KeyError, TypeError):
        raise MediaError(f"{path}: not a feature file (its header is not one that `longreel extract` writes)") from None
    if about.get("format") != FORMAT:
        raise MediaError(f"{path}: its format is {about.get('format')!r}, this version reads {FORMAT!r}")
    if len(shape) != 3 or min(shape) < 1:
        raise MediaError(f"{path}: features of shape {list(shape)} hold no frames")
    frames, tokens, width = shape
    end = frames * tokens * width * dtype.itemsize
    if offsets != (0, end, end, end + 8 * frames) or times["shape"] != [frames] or times["dtype"] != "F64":
        raise MediaError(f"{path}: its header contradicts itself")
    check_whole(path, start + offsets[3])
    return about, start, (frames, tokens, width), dtype
