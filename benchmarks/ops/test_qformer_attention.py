"""qformer_attention: our kernels beside the peers, forward and forward + backward."""

from collections.abc import Callable

from longreel.bench.cases import Case

OP = "qformer_attention"


def test_qformer_attention(case: Case, variant: str, measure: Callable[[Case, str], None]) -> None:
    measure(case, variant)
