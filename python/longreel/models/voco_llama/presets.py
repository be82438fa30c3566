"""Sizes of the VoCo-LLaMA reference model."""

from dataclasses import dataclass

from longreel.models.sizes import NATIVE, LanguageSize, TowerSize


@dataclass(frozen=True, slots=True)
class VoCoPreset:
    """A CLIP tower (without its last layer, which nobody reads) and a Llama; the last id of its vocabulary is the VoCo token.

    `chunk`: frames at a time; `at_once`: frames of one pass through the language model's vision stage; `dtype`: on a CPU;
    `projector`: from the patches to the language model, as in `longreel.nn.ContextAttention`.
    """

    name: str
    tower: TowerSize
    language: LanguageSize
    chunk: int = 64
    at_once: int = 8
    dtype: str = "float32"
    projector: str = "mlp2x_gelu"


# As it was called at first.
Preset = VoCoPreset

TINY = VoCoPreset(
    name="tiny",
    dtype=NATIVE,
    tower=TowerSize(image=336, patch=14, width=96, layers=2, heads=3, mlp=384),
    language=LanguageSize(width=256, layers=4, heads=4, kv_heads=4, mlp=704, vocabulary=261, positions=65536),
)

SMALL = VoCoPreset(
    name="small",
    dtype=NATIVE,
    tower=TowerSize(image=336, patch=14, width=384, layers=11, heads=6, mlp=1536),
    language=LanguageSize(width=512, layers=8, heads=8, kv_heads=4, mlp=1408, vocabulary=261, positions=65536),
)

# CLIP ViT-L/14-336 and Vicuna-7B v1.5, whose positions are stretched so that an hour has room among them, as LLaMA-VID's
# long-video stage does.
SEVEN_B = VoCoPreset(
    name="7b",
    tower=TowerSize(image=336, patch=14, width=1024, layers=23, heads=16, mlp=4096),
    language=LanguageSize(
        width=4096, layers=32, heads=32, kv_heads=32, mlp=11008, vocabulary=32001, positions=65536, rope_factor=16.0
    ),
    dtype="bfloat16",
)

PRESETS = {preset.name: preset for preset in (TINY, SMALL, SEVEN_B)}
