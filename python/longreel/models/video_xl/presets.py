"""Sizes of the Video-XL reference model."""

import json
from dataclasses import dataclass

from longreel.models.sizes import NATIVE, LanguageConfig, LanguageSize, TowerSize

THETA = 1e6


@dataclass(frozen=True, slots=True)
class VideoXLPreset:
    """A CLIP tower, a projector with 2 x 2 average pooling behind it, and a Qwen2.

    `chunk`: frames at a time; `window`: visual tokens that are summarised together; `at_once`: windows of one pass; `tiles`: the
    most that a picture is cut into; `dtype`: on a CPU; `projector`: as in `longreel.nn.ContextAttention`.
    """

    name: str
    tower: TowerSize
    language: LanguageSize
    chunk: int = 60
    window: int = 1440
    at_once: int = 1
    tiles: int = 49
    dtype: str = "float32"
    projector: str = "mlp2x_gelu"

    @property
    def frame(self) -> int:
        """Visual tokens of a frame."""
        return self.tower.patches // 4


def qwen2(
    *, width: int, layers: int, heads: int, kv_heads: int, mlp: int, vocabulary: int, positions: int
) -> LanguageSize:
    """A Qwen2 of this size, weights drawn as wide as those of the other systems' language models."""
    entries = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "intermediate_size": mlp, "vocab_size": vocabulary, "max_position_embeddings": positions, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": THETA}, "tie_word_embeddings": False,
        "initializer_range": width**-0.5, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    return LanguageSize(
        width, layers, heads, kv_heads, mlp, vocabulary, positions, config=LanguageConfig("qwen2", json.dumps(entries))
    )


TINY = VideoXLPreset(
    name="tiny",
    dtype=NATIVE,
    tower=TowerSize(image=336, patch=14, width=96, layers=2, heads=3, mlp=384),
    language=qwen2(width=256, layers=4, heads=4, kv_heads=2, mlp=704, vocabulary=260, positions=131072),
)

SMALL = VideoXLPreset(
    name="small",
    dtype=NATIVE,
    tower=TowerSize(image=336, patch=14, width=384, layers=12, heads=6, mlp=1536),
    language=qwen2(width=512, layers=8, heads=8, kv_heads=2, mlp=1408, vocabulary=260, positions=131072),
)

# CLIP ViT-L/14-336 and Qwen2-7B, whose rotary embedding goes on beyond the positions that it was trained on, as published.
SEVEN_B = VideoXLPreset(
    name="7b",
    tower=TowerSize(image=336, patch=14, width=1024, layers=24, heads=16, mlp=4096),
    language=qwen2(width=3584, layers=28, heads=28, kv_heads=4, mlp=18944, vocabulary=152064, positions=131072),
    dtype="bfloat16",
)

# Trained here, weights beside this file: it finds digit cards (`longreel.data.cards`) and knows no other words.
NEEDLE = VideoXLPreset(
    name="needle",
    tower=TowerSize(image=336, patch=14, width=64, layers=1, heads=2, mlp=128),
    language=qwen2(width=128, layers=2, heads=2, kv_heads=2, mlp=256, vocabulary=20, positions=131072),
)

PRESETS = {preset.name: preset for preset in (TINY, SMALL, SEVEN_B, NEEDLE)}
