"""qformer_attention: our kernels beside the peers, forward and forward + backward."""

from collections.abc import Callable

from longreel.bench.cases import BenchCase

OP = "qformer_attention"


def test_qformer_attention(case: BenchCase, variant: str, measure: Callable[[BenchCase, str], None]) -> None:
    measure(case, variant)
