"""compress_frames: our kernels beside the peers, forward and forward + backward."""

from collections.abc import Callable

from longreel.bench.cases import Case

OP = "compress_frames"


def test_compress_frames(case: Case, variant: str, measure: Callable[[Case, str], None]) -> None:
    measure(case, variant)
