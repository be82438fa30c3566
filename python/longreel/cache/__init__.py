"""Caches of keys and values that keep what later rows will see, for transformers' Cache API."""

from longreel._transformers import require

require("longreel.cache")

from longreel.cache.buffered import BufferedCache  # noqa: E402
from longreel.cache.voco import VoCoCache  # noqa: E402

__all__ = ["BufferedCache", "VoCoCache"]
