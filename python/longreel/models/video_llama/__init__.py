"""Video-LLaMA (arXiv 2306.02858): a video and its sound as forty tokens, by Q-Formers."""

from typing import TYPE_CHECKING

from longreel.models._lazy import lazily
from longreel.models.video_llama.system import SYSTEM

if TYPE_CHECKING:
    from longreel.models.video_llama.audio_tower import AudioTower
    from longreel.models.video_llama.branches import Branches
    from longreel.models.video_llama.clips import clip_ranges, clips_of
    from longreel.models.video_llama.mel import log_mel
    from longreel.models.video_llama.model import VideoLlama
    from longreel.models.video_llama.presets import (
        PRESETS,
        SEVEN_B,
        SMALL,
        TINY,
        AudioTowerSize,
        BranchSize,
        VideoLlamaPreset,
    )
    from longreel.models.video_llama.reference import published

__all__ = [
    "PRESETS",
    "SEVEN_B",
    "SMALL",
    "SYSTEM",
    "TINY",
    "AudioTower",
    "AudioTowerSize",
    "BranchSize",
    "Branches",
    "VideoLlama",
    "VideoLlamaPreset",
    "clip_ranges",
    "clips_of",
    "log_mel",
    "published",
]  # fmt: skip
__getattr__ = lazily(__name__, __all__, ("presets", "clips", "mel", "audio_tower", "branches", "reference", "model"))
