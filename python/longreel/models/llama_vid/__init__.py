"""LLaMA-VID (arXiv 2311.17043): an hour of video as two tokens a frame."""

from longreel.models.llama_vid.adapter import Adapter, Equation, Ops, from_released, released_name, to_released
from longreel.models.llama_vid.model import LlamaVid, byte_ids
from longreel.models.llama_vid.presets import PRESETS, TINY, LanguageSize, Preset, QFormerSize, TowerSize
from longreel.models.llama_vid.tokens import TokensPerFrame, choose_compress, content_counts

__all__ = [
    "PRESETS", "TINY", "Adapter", "Equation", "LanguageSize", "LlamaVid", "Ops", "Preset", "QFormerSize",
    "TokensPerFrame", "TowerSize", "byte_ids", "choose_compress", "content_counts", "from_released", "released_name",
    "to_released",
]  # fmt: skip
