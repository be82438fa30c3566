"""Sizes of the LLaMA-VID reference model."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TowerSize:
    """Vision transformer: `image` and `patch` in pixels; it gives 1 + (image // patch)^2 tokens of `width`."""

    image: int
    patch: int
    width: int
    layers: int
    heads: int
    mlp: int

    @property
    def tokens(self) -> int:
        return 1 + (self.image // self.patch) ** 2


@dataclass(frozen=True, slots=True)
class QFormerSize:
    """BERT with learned queries that attend to the patches in every second layer."""

    width: int
    layers: int
    heads: int
    mlp: int
    queries: int
    vocabulary: int
    positions: int


@dataclass(frozen=True, slots=True)
class LanguageSize:
    """Llama. `rope_factor` stretches the positions linearly."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int
    positions: int
    rope_factor: float


@dataclass(frozen=True, slots=True)
class Preset:
    """One size of the whole system; `compress`: the content tokens of a frame, "mean", "grid:g" or None for all."""

    name: str
    tower: TowerSize
    qformer: QFormerSize
    language: LanguageSize
    compress: str | None
    chunk: int
    dtype: str


TINY = Preset(
    name="tiny",
    tower=TowerSize(image=224, patch=14, width=192, layers=4, heads=3, mlp=768),
    qformer=QFormerSize(width=192, layers=4, heads=3, mlp=768, queries=32, vocabulary=260, positions=512),
    language=LanguageSize(
        width=256, layers=4, heads=4, kv_heads=2, mlp=704, vocabulary=260, positions=65536, rope_factor=16.0
    ),
    compress="mean",
    chunk=64,
    dtype="float32",
)

PRESETS = {preset.name: preset for preset in (TINY,)}
