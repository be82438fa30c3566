"""Cache files: safetensors, written whole or not at all; a header of known names and bounds, read before any tensor is."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from longreel.files.foreign import ForeignError, parsed, shown
from longreel.files.tensors import TensorFile, write_tensors

# The one entry of safetensors' metadata that is ours.
_NAME = "longreel"


def write(path: str | Path, header: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """A safetensors file that appears under its name when it is whole; nothing else of that folder is touched.

    Raises:
        TypeError, ValueError: JSON has no form for something in the header.
        OSError: it cannot be written.
    """
    write_tensors(path, tensors, {_NAME: json.dumps(header, allow_nan=False)})


def read_header(path: str | Path) -> dict[str, Any] | None:
    """What `write` was given as header; None where it is no such file, or cannot be read at all."""
    try:
        with TensorFile(path) as file:
            return _parsed(file.header.metadata)
    except (OSError, ForeignError):
        return None


class CacheFile:
    """A file of `write`, open: its header, the shapes of its tensors, and the tensors when they are asked for. Closed by `with`.

    Raises:
        ValueError: it is no safetensors file, contradicts itself, is cut short, or has no header of ours.
        OSError: it is not there.
    """

    def __init__(self, path: str | Path, what: str, device: str) -> None:
        self.path, self.what, self._device = path, what, device
        if not Path(path).exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        try:
            self._file = TensorFile(path)
        except ForeignError as error:
            raise ValueError(f"{path} is not a {what}: {str(error).removeprefix(f'{path}: ')}") from None
        try:
            self.header = _parsed(self._file.header.metadata)
        except ForeignError as error:
            self._file.close()
            raise ValueError(f"{path} is not a {what}: its header {error}") from None
        self._entries = self._file.header.entries
        self.names = frozenset(self._entries)

    def __enter__(self) -> "CacheFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def refuse(self, why: str) -> NoReturn:
        raise ValueError(f"{self.path} contradicts itself: {why}")

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape

    def dtype(self, name: str) -> str:
        """safetensors' name of it."""
        return self._entries[name].dtype

    def tensor(self, name: str) -> Tensor:
        return self._file.read(name).to(self._device)

    def names_of(self, part: object, names: frozenset[str], where: str) -> dict[str, Any]:
        """`part` of the header, once it is a dictionary with exactly these names."""
        if not isinstance(part, dict):
            self.refuse(f"{where} is {shown(part)}, no table of names")
        if part.keys() != names:
            unknown, absent = sorted(map(str, part.keys() - names)), sorted(names - part.keys())
            self.refuse(f"{where} has unknown {unknown} and lacks {absent}")
        return part

    def number(self, value: object, where: str, least: int = 0) -> int:
        if type(value) is not int or not least <= value < 2**31:
            self.refuse(f"{where} is {shown(value)}; allowed: a whole number from {least} to 2^31 - 1")
        return value


def _parsed(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Ours of it; ForeignError where that is no table of names."""
    own: dict[str, Any] = parsed(metadata.get(_NAME, "{}"), sorts=(dict,))
    return own
