"""The Triton kernels through the interpreter, in a process where triton was told so before its import."""

import os
import subprocess
import sys
from pathlib import Path

CASES = sorted(Path(__file__).parent.glob("interpreted_*.py"))


def test_every_kernel_interpreted() -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", str(cases)],
            env=os.environ | {"TRITON_INTERPRET": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for cases in CASES
    ]
    outputs = [child.communicate()[0] for child in children]
    failed = [output[-6000:] for child, output in zip(children, outputs, strict=True) if child.returncode != 0]
    assert not failed, "\n".join(failed)
