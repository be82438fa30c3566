"""VoCo-LLaMA (arXiv 2406.12275): pictures distilled into VoCo tokens by an attention mask, then kept by those tokens only."""

from longreel.models.voco_llama.adapter import VoCoDecoder
from longreel.models.voco_llama.model import VoCoLlama, from_released, released_name, to_released
from longreel.models.voco_llama.presets import PRESETS, SEVEN_B, SMALL, TINY, Preset
from longreel.models.voco_llama.tokens import IGNORED, IMAGE, VoCoCollator, VoCoRule

__all__ = [
    "IGNORED", "IMAGE", "PRESETS", "SEVEN_B", "SMALL", "TINY", "Preset", "VoCoCollator", "VoCoDecoder", "VoCoLlama", "VoCoRule",
    "from_released", "released_name", "to_released",
]  # fmt: skip
