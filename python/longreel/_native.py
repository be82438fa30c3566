"""Loads the native libraries and remembers why one is missing."""

import struct
import warnings
from pathlib import Path

import torch

from longreel._host_calls import Host

_FOLDER = Path(__file__).parent
_NOT_BUILT = "this installation was built without native libraries (LONGREEL_NATIVE=0, or not Linux)"


def _load_ops() -> str | None:
    """Registers the kernels of `_ops.so`; returns why that failed."""
    library = _FOLDER / "_ops.so"
    if not library.exists():
        return _absent(library, beside="_host.so")
    if _cut_short(library):
        return _unloaded("_ops.so", "it is cut short")
    try:
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        return _unloaded("_ops.so", str(error))
    return None


def _load_host() -> tuple[Host | None, str | None]:
    library = _FOLDER / "_host.so"
    if not library.exists():
        return None, _absent(library, beside="_ops.so")
    if _cut_short(library):
        return None, _unloaded("_host.so", "it is cut short")
    try:
        return Host(library), None
    except (OSError, AttributeError) as error:
        return None, _unloaded("_host.so", str(error))


def _absent(library: Path, beside: str) -> str:
    """One without the other was left by an older build, or half copied."""
    return _unloaded(library.name, "it is not there; build again") if (_FOLDER / beside).exists() else _NOT_BUILT


def _unloaded(name: str, why: str) -> str:
    what = (
        "kernels do not load, only the reference is left"
        if name == "_ops.so"
        else "planner does not load, Python's is left"
    )
    warnings.warn(f"longreel's {what}: {why}", RuntimeWarning, 4)
    return f"{name} does not load: {why}"


def _cut_short(library: Path) -> bool:
    """Whether a 64-bit ELF file ends before its last table does: one that was half copied kills the process that loads it."""
    with library.open("rb") as file:
        head = file.read(64)
    if head[:5] != b"\x7fELF\x02" or len(head) < 64:
        return len(head) < 64
    tables, (size, count) = int.from_bytes(head[40:48], "little"), struct.unpack("<HH", head[58:62])
    return tables + size * count > library.stat().st_size


OPS_REFUSAL = _load_ops()
HOST, HOST_REFUSAL = _load_host()


def build_record() -> dict[str, str]:
    """What the native libraries were built from and for; empty without them."""
    return {} if HOST is None else HOST.build_record()


def cpu_isas() -> tuple[str, ...]:
    """Instruction sets that this machine runs, best last; empty without the native libraries."""
    return () if HOST is None else tuple(HOST.cpu_isas())
