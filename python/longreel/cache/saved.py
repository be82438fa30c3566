"""Cache files of compressed video: what a cache saves of itself, and what is checked before one is believed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import Cache, PreTrainedConfig

from longreel.cache.file import CacheFile, read_header, write
from longreel.layout.segments import CODE, KINDS, Segment

# safetensors' names of the dtypes that keys and values have, and their bytes.
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_PARTS = frozenset({"format", "layers", "counts", "options", "about"})


@dataclass(frozen=True)
class Counts:
    """What the layers hold, and where the next tokens stand; a subclass adds its own. Saved with the cache.

    text_at: position of the next text token. hidden: tokens that a fork left out, since text does not attend to them.
    """

    text_at: int = 0
    hidden: int = 0

    @property
    def cached(self) -> int:
        """Tokens cached of the video and what stands before it."""
        raise NotImplementedError

    @property
    def kept(self) -> int:
        """`cached`, by its name until 0.1.0."""
        return self.cached


class SavedCache(Cache):
    """A cache with a file form. A subclass names its FORMAT ("name/version"), its COUNTS, the keyword arguments OPTIONS that
    a file keeps, and in OLDER what turns a header of an earlier format into one of today's."""

    FORMAT: ClassVar[str]
    OLDER: ClassVar[Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {}
    OPTIONS: ClassVar[tuple[str, ...]] = ()
    COUNTS: ClassVar[type[Counts]]

    # CompressedLayers; the base class says less.
    layers: list[Any]
    counts: Any
    heads: int
    head_dim: int
    max_bytes: int | None
    # All that was appended; None where a file of an older version does not tell.
    segments: tuple[Segment, ...] | None

    def save(self, path: str | Path, about: Mapping[str, Any] | None = None) -> None:
        """The cached tokens as a safetensors file, which appears only when it is whole. about: what else it says of itself.

        Raises:
            ValueError: the cache holds text, or NaN. TypeError: JSON has no form for something in `about`.
            OSError: the file cannot be written. Nothing is left of it then, and no other file is touched.
        """
        if any(layer.tokens != self.counts.cached for layer in self.layers):
            raise ValueError("a cache with text in it is not saved: save it before a question is asked of it")
        tensors: dict[str, Tensor] = {}
        for i, layer in enumerate(self.layers if self.counts.cached else ()):
            for name in ("keys", "values"):
                tensors[f"{name}.{i}"] = getattr(layer, name).contiguous()
                if bool(tensors[f"{name}.{i}"].isnan().any()):
                    raise ValueError(f"{name} of layer {i} hold NaN: nothing is saved")
        if self.segments is not None:
            rows = [(CODE[segment.kind], *segment[1:]) for segment in self.segments]
            # [n, 4]: kind, tokens, ratio, carry
            tensors["segments"] = torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)
        header = {
            "format": self.FORMAT, "layers": len(self.layers), "counts": asdict(self.counts),
            "options": self._options(), "about": dict(about or {}),
        }  # fmt: skip
        write(path, header, tensors)

    def _options(self) -> dict[str, Any]:
        """OPTIONS as JSON has them."""
        return {name: getattr(self, name) for name in self.OPTIONS}

    @classmethod
    def described(cls, path: str | Path) -> dict[str, Any] | None:
        """What `save` was told `about` a file; None where it is not one of `save`, or cannot be read at all."""
        header = read_header(path) or {}
        about = header.get("about", {}) if header.get("format") in [cls.FORMAT, *cls.OLDER] else None
        return about if isinstance(about, dict) else None

    @classmethod
    def load(
        cls,
        path: str | Path,
        config: PreTrainedConfig,
        device: torch.device | str = "cpu",
        *,
        max_bytes: int | None = None,
    ) -> Self:
        """What `save` wrote.

        Raises:
            ValueError: it is no such file, is cut short, contradicts itself, or its layers, heads or head size are not those
                of `config`.
            MemoryError: it takes more than `max_bytes`.
            OSError: it cannot be opened.
        """
        with CacheFile(path, cls.__name__, str(device)) as file:
            return cls._read(file, config, max_bytes)

    @classmethod
    def _read(cls, file: CacheFile, config: PreTrainedConfig, max_bytes: int | None) -> Self:
        path = file.path
        form = file.header.get("format")
        if form not in [cls.FORMAT, *cls.OLDER]:
            raise ValueError(f"{path} is not a {cls.__name__}: its format is {form!r}, allowed: {cls.FORMAT!r}")
        older = cls.OLDER.get(form)
        header = file.header if older is None else _upgraded(file, older)
        file.names_of(header, _PARTS, "the header")
        if not isinstance(header["about"], dict):
            file.refuse("about is no table of names")
        options = file.names_of(header["options"], frozenset(cls.OPTIONS), "options")
        made: Any = cls
        try:
            cache: Self = made(config, max_bytes=max_bytes, **options)
        except (TypeError, ValueError) as error:
            file.refuse(str(error))
        layers = file.number(header["layers"], "layers")
        if layers != len(cache.layers):
            raise ValueError(f"{path} has {layers} layers, the model {len(cache.layers)}: it is of another model")
        given = file.names_of(header["counts"], frozenset(f.name for f in fields(cls.COUNTS)), "counts")
        counts = cls.COUNTS(**{name: file.number(value, f"counts of {name}") for name, value in given.items()})
        cache._fill(file, counts)
        return cache

    def _fill(self, file: CacheFile, counts: Counts) -> None:
        """Take counts, segments (version 1 had none) and tensors, once they agree."""
        tensors = {
            f"{name}.{i}" for i in range(len(self.layers) if counts.cached else 0) for name in ("keys", "values")
        }
        if file.names - {"segments"} != tensors:
            file.refuse(
                f"{counts.cached} tokens in {len(self.layers)} layers are claimed, {_some(file.names)} are there"
            )
        segments = _segments(file) if "segments" in file.names else None
        try:
            self._check(counts, segments)
        except ValueError as error:
            file.refuse(str(error))
        if tensors:
            self._check_tensors(file, tensors, counts.cached)
        self._set(counts)
        self.segments = segments
        for i, layer in enumerate(self.layers if tensors else ()):
            keys, values = file.tensor(f"keys.{i}"), file.tensor(f"values.{i}")
            for name, tensor in (("keys", keys), ("values", values)):
                if bool(tensor.isnan().any()):
                    file.refuse(f"{name}.{i} holds NaN")
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values

    def _check_tensors(self, file: CacheFile, names: set[str], tokens: int) -> None:
        """All of one shape and dtype, those of the model and of the header."""
        shapes = {(file.dtype(name), file.shape(name)) for name in names}
        (dtype, shape), *others = sorted(shapes)
        if others or dtype not in _BYTES or len(shape) != 4 or not shape[0]:
            file.refuse(f"its keys and values are {_some(shapes)}; allowed: one shape [B, Hkv, tokens, D] of floats")
        if (shape[1], shape[3]) != (self.heads, self.head_dim):
            raise ValueError(
                f"{file.path} has {shape[1]} key heads of {shape[3]}, the model {self.heads} of {self.head_dim}: it is of another"
                " model"
            )
        if shape[2] != tokens:
            file.refuse(f"{tokens} tokens are claimed, {shape[2]} are there")
        size = prod(shape) * _BYTES[dtype] * len(names)
        if self.max_bytes is not None and size > self.max_bytes:
            raise MemoryError(f"{file.path} holds {size} bytes of keys and values; max_bytes is {self.max_bytes}")

    def _check(self, counts: Any, segments: Sequence[Segment] | None) -> None:
        """ValueError where counts are impossible, or not those of the segments."""
        if counts.cached + counts.hidden > counts.text_at:
            raise ValueError(f"{counts.cached + counts.hidden} tokens do not end at position {counts.text_at}")
        if segments is None:
            return
        expected = self._counts_of(segments)
        if counts.hidden:
            expected = self._without_hidden(expected)
        if counts != expected:
            raise ValueError(f"its segments leave {expected}, its header says {counts}")

    def _set(self, counts: Counts) -> None:
        self.counts = counts
        for layer in self.layers:
            layer.counts = counts

    def _counts_of(self, segments: Sequence[Segment]) -> Counts:
        """What a cache holds after these segments; ValueError where they are no video."""
        raise NotImplementedError

    def _without_hidden(self, counts: Any) -> Any:
        """The counts of a fork: those of the first cached tokens that text does not attend to are `hidden`."""
        return counts


def _upgraded(file: CacheFile, older: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    try:
        return older(file.header)
    except (LookupError, TypeError) as error:
        file.refuse(f"its header lacks {error}")


def _segments(file: CacheFile) -> tuple[Segment, ...]:
    if file.dtype("segments") != "I64" or len(file.shape("segments")) != 2 or file.shape("segments")[1] != 4:
        file.refuse(f"segments are {file.dtype('segments')} {list(file.shape('segments'))}; allowed: I64 [n, 4]")
    rows = file.tensor("segments").tolist()
    for row in rows:
        for value, least in zip(row, (0, 1, 0, 0), strict=True):
            file.number(value, f"segment {row}", least)
        if row[0] >= len(KINDS):
            file.refuse(f"segment {row} is of no kind; allowed are 0 to {len(KINDS) - 1}")
    return tuple(Segment(KINDS[kind], *numbers) for kind, *numbers in rows)


def _some(things: Any) -> str:
    shown = sorted(map(str, things))
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "") if shown else "none"
