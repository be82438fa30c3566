"""compress_frames: our kernels beside the peers, forward and forward + backward."""

from collections.abc import Callable

from longreel.bench.cases import BenchCase

OP = "compress_frames"


def test_compress_frames(case: BenchCase, variant: str, measure: Callable[[BenchCase, str], None]) -> None:
    measure(case, variant)
