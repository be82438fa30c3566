"""Writing patch features frame by frame while a video streams; `longreel.data.features` says what the file looks like."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from longreel.data.errors import MediaError
from longreel.data.features import FORMAT, FORMAT_WITH_OTHERS
from longreel.files.output import OutputFile
from longreel.files.tensors import bytes_of, header_of

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
        self.file.write(bytes_of(values))
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
            self._out = OutputFile(self.path)
        except OSError as error:
            raise MediaError(f"{self.path}: {error.strerror}") from None
        self._file = self._out.file
        self._file.write(bytes(8 + self._room))
        self._others = {name: _Other(self._out.part.parent) for name in others}

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
            self._file.write(bytes_of(features))
        self._times += times.tolist()

    def __enter__(self) -> "FeatureWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            stack.enter_context(self._out)
            for other in self._others.values():
                stack.callback(other.file.close)
            if kind is None:
                self._finish()
            elif error is not None:
                # For `OutputFile`, which names the file that a full disk is about.
                raise error

    def _finish(self) -> None:
        self._file.write(bytes_of(torch.tensor(self._times, dtype=torch.float64)))
        for other in self._held():
            other.file.seek(0)
            shutil.copyfileobj(other.file, self._file)
            self._file.write(bytes_of(torch.tensor(other.times, dtype=torch.float64)))
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little") + self._header().ljust(self._room))

    def _held(self) -> list[_Other]:
        """The other modalities of which there is something."""
        return [other for other in self._others.values() if other.times]

    def _header(self) -> bytes:
        tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "features": (self._dtype, (len(self._times), *self._shape)),
            "times": (torch.float64, (len(self._times),)),
        }
        for name, other in self._others.items():
            if other.times:
                tensors[name] = (other.dtype, (len(other.times), *other.shape))
                tensors[f"{name}.times"] = (torch.float64, (len(other.times),))
        return header_of(tensors, {"format": FORMAT_WITH_OTHERS if self._held() else FORMAT, **self._about})
