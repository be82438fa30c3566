"""The Triton kernels through the interpreter, in a process where triton was told so before its import."""

import os
import subprocess
import sys
from pathlib import Path

FILES = [Path(__file__).with_name(name) for name in ("interpreted_kernels.py", "interpreted_attention.py")]


def test_every_kernel_interpreted() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", *map(str, FILES)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, f"{child.stdout[-6000:]}\n{child.stderr[-2000:]}"
