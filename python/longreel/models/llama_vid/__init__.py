"""LLaMA-VID (arXiv 2311.17043): an hour of video as two tokens a frame."""

from longreel.models.llama_vid.adapter import Adapter, Ops, released_name
from longreel.models.llama_vid.model import LlamaVid, byte_ids
from longreel.models.llama_vid.presets import PRESETS, TINY, LanguageSize, Preset, QFormerSize, TowerSize

__all__ = [
    "PRESETS", "TINY", "Adapter", "LanguageSize", "LlamaVid", "Ops", "Preset", "QFormerSize", "TowerSize",
    "byte_ids", "released_name",
]  # fmt: skip
