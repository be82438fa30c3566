"""The Triton kernels through the interpreter, in processes where triton was told so before its import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from longreel.ops.registry import OPS

HERE = Path(__file__).parent
CASES = HERE / "interpreted_cases.py"


def shards() -> list[tuple[Path, str]]:
    """(file, which of its tests), so that they run side by side; of interpreted_cases.py a shard an op."""
    ops = [f"[{op}-" for op, spec in OPS.items() if any(row.backend == "triton" for row in spec.rows)]
    others = [(path, "") for path in sorted(HERE.glob("interpreted_*.py")) if path != CASES]
    return [*((CASES, op) for op in ops), *others]


@pytest.mark.parametrize(
    ("cases", "only"), [pytest.param(path, only, id=f"{path.stem}{only}") for path, only in shards()]
)
def test_every_kernel_interpreted(cases: Path, only: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", str(cases), "-k", only]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
