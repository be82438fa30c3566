"""adaptive_pool: our kernels beside the peers, forward and forward + backward."""

from collections.abc import Callable

from longreel.bench.cases import BenchCase

OP = "adaptive_pool"


def test_adaptive_pool(case: BenchCase, variant: str, measure: Callable[[BenchCase, str], None]) -> None:
    measure(case, variant)
