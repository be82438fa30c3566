"""Reading the format ``golden/1``: a pair NAME.json + NAME.safetensors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

FORMAT = "golden/1"


class GoldenError(ValueError):
    """A file that is not what the format says: one line with the file and the reason."""


@dataclass(frozen=True)
class GoldenFile:
    """One group of cases: its configuration, weights and cases."""

    path: Path
    meta: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def config(self) -> Mapping[str, Any]:
        return self.meta["config"]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path.with_suffix(".safetensors"))

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """State dict of the reference model, floating tensors in `dtype`."""
        stored = {key.removeprefix("weights/"): t for key, t in self.tensors.items() if key.startswith("weights/")}
        return {key: _cast(t, dtype) for key, t in stored.items()}

    @cached_property
    def cases(self) -> dict[str, "GoldenCase"]:
        return {name: GoldenCase(self, name, meta) for name, meta in self.meta["cases"].items()}


@dataclass(frozen=True)
class GoldenCase:
    """One run of the reference: parameters, inputs, the truth and the tolerance of each quantity."""

    file: GoldenFile
    name: str
    meta: Mapping[str, Any]

    @property
    def params(self) -> Mapping[str, Any]:
        return self.meta["params"]

    def inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        return {
            name.removeprefix("in/"): _cast(self._tensor(name), dtype)
            for name in self.meta["tensors"]
            if name.startswith("in/")
        }

    @property
    def outputs(self) -> list[str]:
        """Quantities that the file stores."""
        listed = (name.partition("/") for name in self.meta["tensors"])
        return list(dict.fromkeys(name for kind, _, name in listed if kind in ("out", "truth")))

    def truth(self, output: str) -> Tensor:
        """Float64 where the file has it, else the reference's own float32."""
        name = f"truth/{output}"
        return self._tensor(name if name in self.meta["tensors"] else f"out/{output}")

    def _tensor(self, name: str) -> Tensor:
        key = self.meta["tensors"][name]["key"]
        if key not in self.file.tensors:
            raise GoldenError(
                f"{self.file.path.with_suffix('.safetensors')} has no tensor {key!r}, named by case {self.name!r}"
            )
        return self.file.tensors[key]


def read(path: Path) -> GoldenFile:
    path = path.with_suffix(".json")
    for part in (path, path.with_suffix(".safetensors")):
        if not part.exists():
            raise GoldenError(f"{part} does not exist: a golden file is a pair NAME.json + NAME.safetensors")
    meta = json.loads(path.read_text())
    if meta.get("format") != FORMAT:
        raise GoldenError(f"{path} has format {meta.get('format')!r}; this version reads {FORMAT!r}")
    return GoldenFile(path, meta)


def find(paths: list[Path], only: list[str]) -> list[GoldenFile]:
    """Golden files among `paths` (files or folders) whose names match a pattern of `only` (all where that is empty)."""
    listed = []
    for path in paths:
        if path.is_dir():
            listed += sorted(p for p in path.glob("*.json") if p.name != "MANIFEST.json")
        else:
            listed.append(path)
    files = [read(path) for path in listed if not only or any(fnmatch(path.stem, pattern) for pattern in only)]
    if not files:
        wanted = f" that match {' or '.join(only)}" if only else ""
        raise GoldenError(f"no golden files{wanted} in {', '.join(map(str, paths))}")
    return files


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
