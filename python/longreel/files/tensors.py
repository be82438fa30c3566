"""safetensors files: their headers, checked against themselves before anything is believed, and a writer."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

from longreel.files.foreign import ForeignError, open_regular, parsed, shown
from longreel.files.output import OutputFile

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Bytes of the other dtypes that the format has.
_OTHER_BYTES = {"U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8}
# As safetensors itself has it.
LONGEST_HEADER = 100 << 20
_MOST_DIMENSIONS = 8


class CutError(ForeignError):
    """A safetensors file, but not as long as its header says."""


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: safetensors' name of its dtype, its shape, and its bytes [begin, end) of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """metadata: text by name. entries: by name, in the order of their bytes. size: of the whole file."""

    metadata: Mapping[str, str]
    entries: Mapping[str, Entry]
    size: int


class TensorFile:
    """A safetensors file, open: its header, checked against itself and the file's length before anything is believed, and its
    bytes, by ordinary reads of the one file that was opened, whatever has its name by then.

    Raises:
        ForeignError: it is no such file, contradicts itself, or is cut short.
    """

    def __init__(self, path: str | os.PathLike[str], longest: int = LONGEST_HEADER) -> None:
        self.path = Path(path)
        self._file = open_regular(path)
        try:
            self._opened = self._state()
            self.header = _read_header(self.path, self._file, longest)
        except BaseException:
            self._file.close()
            raise

    def read(self, name: str) -> Tensor:
        """A tensor, on the CPU.

        Raises:
            ForeignError: its dtype is not read here, or as `fill`.
        """
        entry = self.header.entries[name]
        if entry.dtype not in DTYPES:
            raise ForeignError(f"{self.path}: {shown(name)} is {entry.dtype}; read are {', '.join(DTYPES)}")
        tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        self.fill(tensor, entry.begin)
        return tensor

    def fill(self, tensor: Tensor, begin: int) -> None:
        """Take the bytes of a contiguous `tensor` from `begin` on.

        Raises:
            ForeignError: the file was cut, or written to, since it was opened.
        """
        view = bytes_of(tensor)
        self._file.seek(begin)
        while view:
            count = self._file.readinto(view)
            if not count:
                raise ForeignError(f"{self.path}: ends early; it was cut while it was read")
            view = view[count:]
        if self._state() != self._opened:
            raise ForeignError(f"{self.path}: was written to while it was read")

    def _state(self) -> tuple[int, int]:
        about = os.fstat(self._file.fileno())
        return about.st_size, about.st_mtime_ns

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _read_header(path: Path, file: BufferedReader, longest: int) -> Header:
    there = os.fstat(file.fileno()).st_size
    if there == 0:
        raise ForeignError(f"{path}: the file is empty")
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(longest, there - 8):
        raise ForeignError(f"{path}: no safetensors header")
    try:
        header = parsed(file.read(length), sorts=(dict,))
    except ForeignError as error:
        raise ForeignError(f"{path}: no safetensors header (it {error})") from None
    try:
        metadata = _metadata(header.pop("__metadata__", {}))
        found = [(name, _entry(name, value, 8 + length)) for name, value in header.items()]
        entries = dict(sorted(found, key=lambda item: (item[1].begin, item[1].end)))
        at = 8 + length
        for name, entry in entries.items():
            if entry.begin != at:
                raise ForeignError(f"{shown(name)} begins at {entry.begin}, what stands before it ends at {at}")
            at = entry.end
    except ForeignError as error:
        raise ForeignError(f"{path}: its header contradicts itself: {error}") from None
    if there < at:
        raise CutError(f"{path}: cut short, {there} bytes of {at}")
    if there > at:
        raise ForeignError(f"{path}: its header contradicts itself: {there - at} bytes stand behind all that it names")
    return Header(metadata, entries, at)


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ForeignError("__metadata__ is no table of texts")
    return value


def _entry(name: str, value: object, start: int) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ForeignError(f"{shown(name)} has no dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or (dtype not in DTYPES and dtype not in _OTHER_BYTES):
        raise ForeignError(f"{shown(name)} is of dtype {shown(dtype)}")
    for numbers, most in ((shape, _MOST_DIMENSIONS), (offsets, 2)):
        if not isinstance(numbers, list) or len(numbers) > most:
            raise ForeignError(f"shape and data_offsets of {shown(name)} are no short lists of numbers")
        if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
            raise ForeignError(f"shape and data_offsets of {shown(name)} are not all whole numbers from 0")
    item = DTYPES[dtype].itemsize if dtype in DTYPES else _OTHER_BYTES[dtype]
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * item:
        raise ForeignError(f"{shown(name)} is {dtype} {shown(shape)} in the bytes {shown(offsets)}")
    return Entry(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def header_of(entries: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The JSON of a header, for tensors that stand behind it in this order."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name, (dtype, shape) in entries.items():
        end = at + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return json.dumps(header).encode()


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file, as `OutputFile` writes; one tensor in memory beside those given.

    Raises:
        OSError: it cannot be written.
    """
    header = header_of({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}, metadata)
    room = -(-len(header) // 8) * 8
    with OutputFile(path) as out:
        out.file.write(room.to_bytes(8, "little") + header.ljust(room))
        for tensor in tensors.values():
            out.file.write(bytes_of(tensor))


def bytes_of(tensor: Tensor) -> memoryview:
    """Of its elements in order; its own memory where it is contiguous on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
