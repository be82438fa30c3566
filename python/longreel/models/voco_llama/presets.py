"""Sizes of the VoCo-LLaMA reference model."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preset:
    """A CLIP tower, whose last layer but one gives (image // patch)^2 rows, and a Llama of `vocabulary` ids + the VoCo token."""

    name: str
    image: int
    patch: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    vision_mlp: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int
    positions: int
    dtype: str

    @property
    def rows(self) -> int:
        """Vision rows of a picture."""
        return (self.image // self.patch) ** 2


TINY = Preset(
    name="tiny", image=336, patch=14, vision_width=96, vision_layers=3, vision_heads=3, vision_mlp=384, width=256, layers=4,
    heads=4, kv_heads=4, mlp=704, vocabulary=260, positions=65536, dtype="float32",
)  # fmt: skip
SEVEN_B = Preset(
    name="7b", image=336, patch=14, vision_width=1024, vision_layers=24, vision_heads=16, vision_mlp=4096, width=4096, layers=32,
    heads=32, kv_heads=32, mlp=11008, vocabulary=32000, positions=4096, dtype="bfloat16",
)  # fmt: skip

PRESETS = {preset.name: preset for preset in (TINY, SEVEN_B)}
