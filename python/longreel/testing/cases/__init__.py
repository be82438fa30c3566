"""The corners of every op, a module each under the op's name: what the contract, interpreter, emulator and GPU tests run.

A module has `cases()`, small inputs where an op could go wrong; `bad_cases()`, what must raise and with which words;
`gpu_cases()`, real sizes; where the op has a Triton kernel `interpreted()`, the cases that run in Triton's interpreter with their
dtypes (every step is interpreted: few and small); and `REFUSED`, by backend, the cases that it does not serve and a word of the
reason.
"""

import importlib
from types import ModuleType


def corners(op: str) -> ModuleType:
    """The corners of `op`."""
    return importlib.import_module(f"longreel.testing.cases.{op}")
