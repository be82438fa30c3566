"""The Triton kernels through the interpreter, in processes where triton was told so before its import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CASES = HERE / "interpreted_cases.py"
OTHERS = sorted(set(HERE.glob("interpreted_*.py")) - {CASES})


# Two processes of about one length, so that they run side by side; what a process costs before its first test is spent twice.
@pytest.mark.long
@pytest.mark.parametrize("files", [[CASES], OTHERS], ids=["cases", "others"])
def test_every_kernel_interpreted(files: list[Path]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", *map(str, files)]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
