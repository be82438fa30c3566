"""Sizes that every system has: its vision tower, its language model, and what a preset says of a run."""

import hashlib
import json
import warnings
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from longreel.measure.machine import multiplies_bf16

NATIVE = "native"
"""A preset's dtype: bfloat16 where the CPU multiplies it natively, else float32."""
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class TowerSize:
    """Vision transformer: `image` and `patch` in pixels; it gives CLS and (image // patch)^2 patch tokens of `width`."""

    image: int
    patch: int
    width: int
    layers: int
    heads: int
    mlp: int

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2

    @property
    def tokens(self) -> int:
        return 1 + self.patches

    @property
    def parameters(self) -> int:
        """At least."""
        return self.layers * (4 * self.width + 2 * self.mlp) * self.width


@dataclass(frozen=True)
class LanguageConfig:
    """What a checkpoint's config.json says of its language model.

    `entries`, as JSON, are those of transformers' configuration of type `kind`.
    """

    kind: str
    entries: str

    def __repr__(self) -> str:
        return f"{self.kind}-{hashlib.sha256(self.entries.encode()).hexdigest()[:8]}"

    def build(self) -> Any:
        """transformers' configuration."""
        from transformers import CONFIG_MAPPING

        with warnings.catch_warnings():
            # The older name of rope_parameters, which it reads as ever.
            warnings.filterwarnings("ignore", ".*rope_scaling", FutureWarning)
            return CONFIG_MAPPING[self.kind](**json.loads(self.entries))


@dataclass(frozen=True, slots=True)
class LanguageSize:
    """Llama, unless `config`, which a checkpoint brings, says more. `rope_factor` stretches the positions linearly."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int
    positions: int
    rope_factor: float = 1.0
    config: LanguageConfig | None = field(default=None, compare=False)

    @property
    def head(self) -> int:
        """Width of a head."""
        own = None if self.config is None else getattr(self.config.build(), "head_dim", None)
        return own or self.width // self.heads

    @property
    def parameters(self) -> int:
        """At least."""
        heads = 2 * (self.heads + self.kv_heads) * self.head
        return self.layers * (heads + 3 * self.mlp) * self.width + self.vocabulary * self.width


class Preset(Protocol):
    """One size of a whole system. `chunk`: frames at a time; `dtype`: on a CPU, NATIVE or a name (a GPU computes in bfloat16)."""

    @property
    def name(self) -> str: ...
    @property
    def tower(self) -> TowerSize: ...
    @property
    def language(self) -> LanguageSize: ...
    @property
    def chunk(self) -> int: ...
    @property
    def dtype(self) -> str: ...


def computed_in(preset: Preset, device: torch.device) -> torch.dtype:
    """The preset's dtype on a CPU, bfloat16 on a GPU."""
    name = "bfloat16" if device.type == "cuda" else preset.dtype
    if name == NATIVE:
        name = "bfloat16" if multiplies_bf16() else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype
