"""Every op's Triton kernels in Triton's interpreter, on the cases that its corners name for it: values and gradients.

Run with TRITON_INTERPRET=1, which triton reads at its import; `test_triton_interpret.py` does so in a process of its own.
"""

import pytest
import torch

from longreel.ops.registry import OPS
from longreel.testing import poison
from longreel.testing.cases import corners
from longreel.testing.cases.case import Case
from longreel.testing.runner import Variant, low_level, prepare, run, yardstick

RUNS = [
    pytest.param(op, dtype, case, id=f"{op}-{str(dtype).removeprefix('torch.')}-{case.name}")
    for op, spec in OPS.items()
    if any(row.backend == "triton" for row in spec.rows)
    for dtype, case in corners(op).interpreted()
]


@pytest.mark.parametrize(("op", "dtype", "case"), RUNS)
def test_equals_the_reference(op: str, dtype: torch.dtype, case: Case) -> None:
    inputs = prepare(case.inputs(), dtype)
    wanted = [name for name in OPS[op].differentiable if name in inputs]
    with poison():
        got = run(op, low_level(Variant(op, "triton", "cpu")), inputs, wanted)
    yardstick(op, inputs, dtype, wanted).check(got.everything)
