"""NaN poison: a kernel that leaves an element of its output or scratch unwritten shows."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_memory: Any = torch.utils.deterministic


@contextmanager
def poison() -> Iterator[None]:
    """Inside, uninitialised memory is NaN (integers: their largest value): torch.empty, its kin, and longreel's scratch."""
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    fill, scratch = _memory.fill_uninitialized_memory, os.environ.get("LONGREEL_POISON")
    torch.use_deterministic_algorithms(True, warn_only=True)
    _memory.fill_uninitialized_memory = True
    os.environ["LONGREEL_POISON"] = "1"
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        _memory.fill_uninitialized_memory = fill
        if scratch is None:
            del os.environ["LONGREEL_POISON"]
        else:
            os.environ["LONGREEL_POISON"] = scratch
