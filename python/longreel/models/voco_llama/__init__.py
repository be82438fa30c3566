"""VoCo-LLaMA (arXiv 2406.12275): pictures distilled into VoCo tokens by an attention mask, then cached by those tokens only."""

from typing import TYPE_CHECKING

from longreel.models._lazy import lazily
from longreel.models.voco_llama.system import SYSTEM

if TYPE_CHECKING:
    from longreel.models.voco_llama.adapter import VoCoDecoder
    from longreel.models.voco_llama.model import VoCoLlama, from_released, released_name, to_released
    from longreel.models.voco_llama.presets import PRESETS, SEVEN_B, SMALL, TINY, Preset, VoCoPreset
    from longreel.models.voco_llama.tokens import IGNORED, IMAGE, VoCoCollator, VoCoRule

__all__ = [
    "IGNORED", "IMAGE", "PRESETS", "SEVEN_B", "SMALL", "SYSTEM", "TINY", "Preset", "VoCoCollator", "VoCoDecoder", "VoCoLlama",
    "VoCoPreset", "VoCoRule", "from_released", "released_name", "to_released",
]  # fmt: skip
__getattr__ = lazily(__name__, __all__, ("presets", "tokens", "adapter", "model"))
