"""Fewer video tokens for models that were not trained for it: which stay, and the inputs of a model without the others."""

from longreel.compression.cuts import METHODS, Cut, cut
from longreel.compression.planning import CompressionPlan, plan_compression
from longreel.compression.prompt import CompressedInputs, VideoCut
from longreel.compression.quality import CutQuality, QualityReport, compression_quality, keep_all_difference
from longreel.compression.video import compress_video

__all__ = [
    "METHODS",
    "CompressedInputs",
    "CompressionPlan",
    "Cut",
    "CutQuality",
    "QualityReport",
    "VideoCut",
    "compress_video",
    "compression_quality",
    "cut",
    "keep_all_difference",
    "plan_compression",
]
