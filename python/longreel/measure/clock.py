"""Timing one sample of a call, on the host or with CUDA events."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

Timed = Callable[[], Any]


class HostClock:
    """Wall time. Outputs are allocated inside the timed call; the last is released after the clock has stopped."""

    def sample(self, call: Timed, calls: int) -> float:
        """Seconds a call, over `calls` in a row."""
        start = time.perf_counter()
        for _ in range(calls):
            result = call()
        elapsed = time.perf_counter() - start
        del result
        return elapsed / calls


class CudaClock:
    """Events on the current stream around every call, with the L2 cache emptied of the inputs before each.

    The cache is displaced by reading a buffer of four times its size: writing one would leave dirty lines, whose
    eviction the timed call would pay for. The device is kept busy until the host is ahead: a call takes the host 0.1 to 0.2 ms
    until its launch, more than the read that empties the cache, and would be timed waiting for it.
    """

    _AHEAD = 600_000  # clock cycles a call, 0.3 ms at 2 GHz

    def __init__(self, device: torch.device) -> None:
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self._cold = torch.zeros(max(4 * cache, 2**20) // 4, dtype=torch.int32, device=device)

    def sample(self, call: Timed, calls: int) -> float:
        """Seconds a call, over `calls` of them."""
        event = partial(torch.cuda.Event, enable_timing=True)
        marks = [(event(), event()) for _ in range(calls)]
        torch.cuda._sleep(calls * self._AHEAD)
        for start, end in marks:
            self._cold.amax()
            start.record()
            call()
            end.record()
        torch.cuda.synchronize(self._cold.device)
        return sum(start.elapsed_time(end) for start, end in marks) / calls / 1e3


def clock_for(device: torch.device) -> HostClock | CudaClock:
    return CudaClock(device) if device.type == "cuda" else HostClock()
