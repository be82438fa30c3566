"""adaptive_pool: our kernels beside the peers, forward and forward + backward."""

from collections.abc import Callable

from longreel.bench.cases import Case

OP = "adaptive_pool"


def test_adaptive_pool(case: Case, variant: str, measure: Callable[[Case, str], None]) -> None:
    measure(case, variant)
