"""Caches of keys and values that keep what later rows will see, for transformers' Cache API."""

from longreel.cache.buffered import BufferedCache
from longreel.cache.voco import VoCoCache

__all__ = ["BufferedCache", "VoCoCache"]
