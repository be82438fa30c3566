"""Caches of keys and values for transformers' Cache API: written in place, or compressed to what later tokens will see."""

from longreel.cache.buffered import BufferedCache
from longreel.cache.compressed import CompressedCache
from longreel.cache.voco import VoCoCache
from longreel.cache.vst import VSTCache

__all__ = ["BufferedCache", "CompressedCache", "VSTCache", "VoCoCache"]
