"""How the frame pass is cut among more threads than this machine has: shares are counted, not timed."""

import heapq
from itertools import pairwise

import pytest

from longreel import _native

HOST = _native.HOST
pytestmark = pytest.mark.skipif(HOST is None, reason="needs the native libraries")
THREADS = 16
WIDTH, QUERIES = 1408, 32


def busiest(sizes: list[int], workers: int) -> int:
    """Frames of the busiest worker, each taking the next piece when it is done with its last."""
    loads = [0] * workers
    for size in sizes:
        heapq.heappush(loads, heapq.heappop(loads) + size)
    return max(loads)


def schedule(frames: int, tokens: int, threads: int = THREADS, width: int = WIDTH) -> tuple[int, int, int]:
    workers, grain, chunks = HOST.frame_schedule(frames, tokens, width, QUERIES, threads)
    return workers, grain, chunks


@pytest.mark.parametrize("tokens", [16, 25, 256])
@pytest.mark.parametrize("threads", [1, 2, 7, 16, 64])
def test_forward_is_cut_evenly(tokens: int, threads: int) -> None:
    """The busiest of many threads has at most a frame, and a sixteenth, more than its share."""
    for frames in [*range(1, 200), 255, 256, 257, 1000, 3599, 3600, 3601]:
        workers, grain, _ = schedule(frames, tokens, threads)
        assert workers == min(threads, frames), "frames of such a size are worth a thread each"
        pieces = [min(grain, frames - begin) for begin in range(0, frames, grain)]
        assert busiest(pieces, workers) <= frames / workers * (1 + 1 / 16) + 1, (frames, workers, grain)


@pytest.mark.parametrize("frames", [1, 15, 16, 64, 65, 100, 1000, 3600])
def test_query_gradient_is_cut_evenly(frames: int) -> None:
    """Chunks do not depend on threads, and 16 of these have at most a chunk more than their share."""
    cuts = {schedule(frames, 256, threads)[2] for threads in (1, 2, 16, 64)}
    assert len(cuts) == 1
    (chunks,) = cuts
    assert chunks == min(frames, 64)
    edges = [chunk * frames // chunks for chunk in range(chunks + 1)]
    pieces = [end - begin for begin, end in pairwise(edges)]
    assert sum(pieces) == frames
    assert max(pieces) - min(pieces) <= 1
    workers = min(THREADS, frames)
    assert busiest(pieces, workers) <= frames / workers + max(pieces)


def test_small_work_wakes_no_thread() -> None:
    assert schedule(8, 4, width=8)[0] == 1
    assert schedule(0, 256)[:2] == (1, 1)


@pytest.mark.parametrize(
    "wrong", [{"threads": 0}, {"threads": -1}, {"frames": -1}, {"tokens": 2**62}, {"queries": 2**63}]
)
def test_numbers_that_cannot_be(wrong: dict[str, int]) -> None:
    """No division by zero, nothing beyond 64 bits."""
    numbers = {"frames": 8, "tokens": 4, "channels": 8, "queries": QUERIES, "threads": 2} | wrong
    with pytest.raises(ValueError, match="threads at least 1"):
        HOST.frame_schedule(**numbers)
