"""Loads the native libraries and remembers why one is missing."""

import importlib
import warnings
from pathlib import Path
from types import ModuleType

import torch

_FOLDER = Path(__file__).parent
_NOT_BUILT = "this installation was built without native libraries (LONGREEL_NATIVE=0, or not Linux)"


def _load_ops() -> str | None:
    """Registers the kernels of `_ops.so`; returns why that failed."""
    library = _FOLDER / "_ops.so"
    if not library.exists():
        return _NOT_BUILT
    try:
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        warnings.warn(f"longreel's kernels do not load, only the reference is left: {error}", RuntimeWarning, 3)
        return f"_ops.so does not load: {error}"
    return None


def _load_host() -> tuple[ModuleType | None, str | None]:
    if not any(_FOLDER.glob("_host.*")):
        return None, _NOT_BUILT
    try:
        return importlib.import_module("longreel._host"), None
    except ImportError as error:
        return None, f"_host does not load: {error}"


OPS_REFUSAL = _load_ops()
HOST, HOST_REFUSAL = _load_host()


def build_record() -> dict[str, str]:
    """What the native libraries were built from and for; empty without them."""
    return {} if HOST is None else dict(HOST.build_record())


def cpu_isas() -> tuple[str, ...]:
    """Instruction sets that this machine runs, best last; empty without the native libraries."""
    return () if HOST is None else tuple(HOST.cpu_isas())
