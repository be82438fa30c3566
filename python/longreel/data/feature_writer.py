"""Writing patch features frame by frame while a video streams; `longreel.data.features` says what the file looks like."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from longreel.data.errors import MediaError
from longreel.data.features import DTYPES, FORMAT, FORMAT_WITH_OTHERS

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Digits of the final header are not known at the start: shapes and offsets fit in these spare bytes.
_SPARE = 256


class _Other:
    """Another modality's tensor while it grows, in a file of its own beside the features."""

    def __init__(self, folder: Path) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, closed with its writer
        self.shape: tuple[int, ...] = ()
        self.dtype = torch.float32
        self.times: list[float] = []

    def add(self, name: str, values: Tensor, times: Tensor) -> None:
        if not self.times:
            self.shape, self.dtype = tuple(values.shape[1:]), values.dtype
        if values.shape[1:] != self.shape or values.dtype != self.dtype or len(values) != len(times):
            raise ValueError(
                f"{name} {tuple(values.shape)} {values.dtype} with {len(times)} times in a file of {self.shape} {self.dtype}"
            )
        self.file.write(values.contiguous().view(torch.uint8).numpy().data)
        self.times += times.tolist()


class FeatureWriter:
    """Appends chunks; the file appears under its name when `with` ends without an exception, otherwise not at all.

    others: names of the other modalities that `add` may be given.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tokens: int,
        width: int,
        dtype: torch.dtype,
        about: Mapping[str, str],
        *,
        others: Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        self._shape, self._dtype = (tokens, width), dtype
        self._about = dict(about)
        self._times: list[float] = []
        self._others: dict[str, _Other] = {}
        self._room = -(-(len(self._header()) + _SPARE * (1 + 2 * len(others))) // 64) * 64
        try:
            handle, name = tempfile.mkstemp(prefix=f".{self.path.name}-", suffix=".part", dir=self.path.parent)
        except OSError as error:
            raise MediaError(f"{self.path}: cannot be written ({error.strerror})") from None
        self._temporary = Path(name)
        self._file = os.fdopen(handle, "wb")
        self._file.write(bytes(8 + self._room))
        self._others = {name: _Other(self.path.parent) for name in others}

    def add(self, features: Tensor, times: Tensor, others: Mapping[str, tuple[Tensor, Tensor]] | None = None) -> None:
        """Append features [f, T, C] in the writer's dtype and their times [f]; others: by name, values [a, ...] and times [a]."""
        if features.shape[1:] != self._shape or features.dtype != self._dtype or len(features) != len(times):
            raise ValueError(
                f"features {tuple(features.shape)} {features.dtype} with {len(times)} times in a file of"
                f" {self._shape} {self._dtype}"
            )
        for name, (values, at) in (others or {}).items():
            if name not in self._others:
                raise ValueError(f"{name}: this file is made for features{''.join(f', {own}' for own in self._others)}")
            self._others[name].add(name, values, at)
        if len(features):
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
            for other in self._others.values():
                other.file.close()
            self._temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._file.write(torch.tensor(self._times, dtype=torch.float64).numpy().data)
        for other in self._held():
            other.file.seek(0)
            shutil.copyfileobj(other.file, self._file)
            self._file.write(torch.tensor(other.times, dtype=torch.float64).numpy().data)
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little") + self._header().ljust(self._room))
        self._file.close()
        # mkstemp makes it private; an ordinary file has the rights that the user's mask leaves.
        mask = os.umask(0)
        os.umask(mask)
        self._temporary.chmod(0o666 & ~mask)
        os.replace(self._temporary, self.path)

    def _held(self) -> list[_Other]:
        """The other modalities of which there is something."""
        return [other for other in self._others.values() if other.times]

    def _header(self) -> bytes:
        header: dict[str, Any] = {
            "__metadata__": {"format": FORMAT_WITH_OTHERS if self._held() else FORMAT, **self._about}
        }
        end = 0
        tensors: list[tuple[str, tuple[int, ...], torch.dtype, int]] = [
            ("features", self._shape, self._dtype, len(self._times))
        ]
        tensors += [
            (name, each.shape, each.dtype, len(each.times)) for name, each in self._others.items() if each.times
        ]
        for name, shape, dtype, count in tensors:
            first, end = end, end + count * math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": _NAMES[dtype], "shape": [count, *shape], "data_offsets": [first, end]}
            times = "times" if name == "features" else f"{name}.times"
            header[times] = {"dtype": "F64", "shape": [count], "data_offsets": [end, end + 8 * count]}
            end += 8 * count
        return json.dumps(header).encode()
