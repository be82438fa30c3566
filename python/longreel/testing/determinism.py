"""Bit-for-bit equality over repeated runs and thread counts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have one shape, dtype and bit pattern (a NaN equals itself, 0 and -0 differ)."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(*(t.detach().contiguous().view(-1).view(torch.uint8) for t in (a, b)))


def assert_deterministic(
    run: Callable[[], Mapping[str, Tensor]], runs: int = 3, threads: Sequence[int] = (1, 2, 3)
) -> None:
    """Raise AssertionError where `run()`, which returns named tensors, changes a bit over `runs` calls at any thread count."""
    first: Mapping[str, Tensor] | None = None
    for count in threads:
        with num_threads(count):
            for repeat in range(runs):
                results = run()
                first = results if first is None else first
                for name, tensor in results.items():
                    if not same_bits(tensor, first[name]):
                        raise AssertionError(
                            f"{name} changed: run {repeat + 1} with {count} threads differs from the first run with {threads[0]}"
                        )


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """torch.set_num_threads for a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
