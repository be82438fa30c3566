"""Every op of the registry: our kernels beside the peers, forward and forward + backward."""

from collections.abc import Callable

from longreel.bench.cases import BenchCase


def test_op(case: BenchCase, variant: str, measure: Callable[[BenchCase, str], None]) -> None:
    measure(case, variant)
