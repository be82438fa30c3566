"""Cache files: safetensors, written whole or not at all; a header of known names and bounds, read before any tensor is."""

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

# The one entry of safetensors' metadata that is ours.
_NAME = "longreel"


def write(path: str | Path, header: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """A safetensors file that appears under its name when it is whole; nothing else of that folder is touched.

    Raises:
        TypeError, ValueError: JSON has no form for something in the header.
        OSError: it cannot be written.
    """
    metadata = {_NAME: json.dumps(header, allow_nan=False)}
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".part", dir=path.parent)
    except OSError as error:
        raise type(error)(error.errno, f"cannot be written ({error.strerror})", str(path)) from None
    os.close(handle)
    part = Path(name)
    try:
        save_file(tensors, part, metadata=metadata)
        # The temporary file is private; an ordinary one has the rights that the user's mask leaves.
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)
        part.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written ({error})") from None
    except OSError as error:
        raise OSError(error.errno, f"cannot be written ({error.strerror})", str(path)) from None
    finally:
        # Gone already where it was renamed.
        with suppress(FileNotFoundError):
            part.unlink()


def read_header(path: str | Path) -> dict[str, Any] | None:
    """What `write` was given as header; None where it is no such file, or cannot be read at all."""
    try:
        if not Path(path).is_file():
            return None
        with safe_open(path, "pt") as file:
            return _parsed(file.metadata())
    except (OSError, SafetensorError, ValueError):
        return None


class CacheFile:
    """A file of `write`, open: its header, the shapes of its tensors, and the tensors when they are asked for.

    Raises:
        ValueError: it is no safetensors file, is cut short, or has no header of ours.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str | Path, what: str, device: str) -> None:
        self.path, self.what = path, what
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError(f"{path} is not a {what}: it is no regular file")
        try:
            self._file = safe_open(path, "pt", device=device)
            self.header = _parsed(self._file.metadata())
        except SafetensorError as error:
            raise ValueError(f"{path} is not a {what}, or cut short: {error}") from None
        except ValueError as error:
            raise ValueError(f"{path} is not a {what}: {error}") from None
        self.names = frozenset(self._file.keys())

    def refuse(self, why: str) -> NoReturn:
        raise ValueError(f"{self.path} contradicts itself: {why}")

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """safetensors' name of it."""
        return self._file.get_slice(name).get_dtype()

    def tensor(self, name: str) -> Tensor:
        return self._file.get_tensor(name)

    def names_of(self, part: object, names: frozenset[str], where: str) -> dict[str, Any]:
        """`part` of the header, once it is a dictionary with exactly these names."""
        if not isinstance(part, dict):
            self.refuse(f"{where} is {_shown(part)}, no table of names")
        if part.keys() != names:
            unknown, absent = sorted(map(str, part.keys() - names)), sorted(names - part.keys())
            self.refuse(f"{where} has unknown {unknown} and lacks {absent}")
        return part

    def number(self, value: object, where: str, least: int = 0) -> int:
        if type(value) is not int or not least <= value < 2**31:
            self.refuse(f"{where} is {_shown(value)}; allowed: a whole number from {least} to 2^31 - 1")
        return value


def _parsed(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    def refuse(name: str) -> NoReturn:
        raise ValueError(f"its header holds {name}")

    try:
        own = json.loads((metadata or {}).get(_NAME, "{}"), parse_constant=refuse)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("its header is no JSON, or nested without end") from None
    if not isinstance(own, dict):
        raise ValueError(f"its header is {_shown(own)}, no table of names")
    return own


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
