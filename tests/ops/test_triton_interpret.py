"""The Triton kernels through the interpreter, in a process where triton was told so before its import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = sorted(Path(__file__).parent.glob("interpreted_*.py"))


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_interpreted(cases: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", str(cases)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, f"{child.stdout[-6000:]}\n{child.stderr[-2000:]}"
