"""Video-XL (arXiv 2409.14485): visual tokens summarised in chunks, of which the VST tokens' keys and values stay."""

from typing import TYPE_CHECKING

from longreel.models._lazy import lazily
from longreel.models.video_xl.system import SYSTEM

if TYPE_CHECKING:
    from longreel.models.video_xl.adapter import VSTDecoder, VSTRule
    from longreel.models.video_xl.attention import CachedRows, LayoutRows, add_vst
    from longreel.models.video_xl.model import VideoXL, from_released, released_name, to_released
    from longreel.models.video_xl.presets import PRESETS, SEVEN_B, SMALL, TINY, VideoXLPreset
    from longreel.models.video_xl.training import IGNORED, IMAGE

__all__ = [
    "IGNORED", "IMAGE", "PRESETS", "SEVEN_B", "SMALL", "SYSTEM", "TINY", "CachedRows", "LayoutRows", "VSTDecoder", "VSTRule",
    "VideoXL", "VideoXLPreset", "add_vst", "from_released", "released_name", "to_released",
]  # fmt: skip
__getattr__ = lazily(__name__, __all__, ("presets", "attention", "training", "adapter", "model"))
