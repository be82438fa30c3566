"""LLaMA-VID (arXiv 2311.17043): an hour of video as two tokens a frame."""

from typing import TYPE_CHECKING

from longreel.models._lazy import lazily
from longreel.models.llama_vid.system import SYSTEM

if TYPE_CHECKING:
    from longreel.models.llama_vid.adapter import Adapter, Equation
    from longreel.models.llama_vid.key_map import (
        from_released,
        released_name,
        released_names,
        to_released,
    )
    from longreel.models.llama_vid.model import LlamaVid
    from longreel.models.llama_vid.presets import (
        PRESETS,
        TINY,
        LlamaVidPreset,
        Preset,
        QFormerSize,
        TextDecoder,
        preset_table,
    )
    from longreel.models.llama_vid.prompts import Questions, by_bytes, by_vocabulary, byte_ids
    from longreel.models.llama_vid.qformer import build_qformer, qformer_frames
    from longreel.models.llama_vid.tokens import TokensPerFrame, choose_compress, content_counts
    from longreel.models.published_qformer import released_qformer_name
    from longreel.models.record import Ops
    from longreel.models.sizes import LanguageSize, TowerSize

__all__ = [
    "PRESETS", "SYSTEM", "TINY", "Adapter", "Equation", "LanguageSize", "LlamaVid", "LlamaVidPreset", "Ops", "Preset",
    "QFormerSize", "Questions", "TextDecoder", "TokensPerFrame", "TowerSize", "build_qformer", "by_bytes", "by_vocabulary",
    "byte_ids", "choose_compress", "content_counts", "from_released", "preset_table", "qformer_frames", "released_name",
    "released_names", "released_qformer_name", "to_released",
]  # fmt: skip
__getattr__ = lazily(__name__, __all__, ("presets", "tokens", "prompts", "adapter", "key_map", "model", "qformer"))
