"""Caches of keys and values for transformers' Cache API: written in place, or compressed to what later tokens will attend to."""

from longreel._transformers import require

require("longreel.cache")

from longreel.cache.buffered import BufferedCache  # noqa: E402
from longreel.cache.compressed import CompressedCache  # noqa: E402
from longreel.cache.voco import VoCoCache  # noqa: E402
from longreel.cache.vst import VSTCache  # noqa: E402

__all__ = ["BufferedCache", "CompressedCache", "VSTCache", "VoCoCache"]
