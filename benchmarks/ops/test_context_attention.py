"""context_attention: our kernels beside the peers, forward and forward + backward."""

from collections.abc import Callable

from longreel.bench.cases import Case

OP = "context_attention"


def test_context_attention(case: Case, variant: str, measure: Callable[[Case, str], None]) -> None:
    measure(case, variant)
