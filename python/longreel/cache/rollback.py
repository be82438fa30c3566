"""What was appended to a cache of compressed video, taken back."""

from collections.abc import Iterator
from contextlib import contextmanager

from longreel.cache.compressed import CompressedCache


@contextmanager
def taken_back(cache: CompressedCache, *, always: bool = False) -> Iterator[None]:
    """What is appended inside is taken back where an error leaves the block, or `always`: nothing is copied for it.

    Forks that are made inside must not be used behind the block.
    """
    layers, own = [layer.snapshot() for layer in cache.layers], dict(cache.__dict__)
    done = False
    try:
        yield
        done = True
    finally:
        if always or not done:
            for layer, before in zip(cache.layers, layers, strict=True):
                layer.restore(before)
            cache.__dict__.clear()
            cache.__dict__.update(own)
            cache._set(cache.counts)
