"""Which kernel may run where, and why not. `backend=None` takes the first row of an op that has no objection."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, NamedTuple

import torch

from longreel import _native
from longreel import schemas as schemas  # schemas stand before any kernel is looked up

LOW = (torch.float32, torch.bfloat16, torch.float16)
SHORT = (torch.bfloat16, torch.float16)
ALL = (*LOW, torch.float64)
_ANY_DEVICE = ("cpu", "cuda", "mps", "xpu")
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


class BackendError(RuntimeError):
    """The backend that was asked for cannot run this call."""


@dataclass(frozen=True)
class Row:
    """One way to compute one op: where it runs, and why it stands at its place in the table.

    kind: "kernel", a low-level op of ours; "composition", calls of ops that are not ours, with an autograd of its own;
    "reference". proven: its values were right on a card; where they were not looked at yet, only its name chooses it.
    """

    op: str
    backend: str
    devices: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    why: str
    kind: Literal["kernel", "composition", "reference"] = "kernel"
    proven: bool = True


def _flash_attn() -> str | None:
    """Version of the package flash-attn where it has the functions that are called (2.7 and later, below 3)."""
    try:
        found = version("flash-attn")
    except PackageNotFoundError:
        return None
    numbers = tuple(int(number) for number in found.split(".")[:2] if number.isdigit())
    return found if (2, 7) <= numbers < (3,) else None


FLASH_ATTN = _flash_attn()

# Every op's rows, best first: an op declares its own, see `longreel.ops.op`.
TABLE: dict[str, tuple[Row, ...]] = {}

# What `choose` found for an op, a device and a dtype, where nothing else of a call decides.
CHOSEN: dict[tuple[str, torch.device, torch.dtype], str] = {}


def reference_row(op: str) -> Row:
    """The last row of every op."""
    why = "plain PyTorch on any device and dtype: the specification, slow on purpose"
    return Row(op, "reference", _ANY_DEVICE, ALL, why, "reference")


def declare(rows: tuple[Row, ...]) -> None:
    """Enter the rows of one op."""
    TABLE[rows[0].op] = rows
    CHOSEN.clear()
    _MISSING.update({(row.op, row.backend): _missing(row) for row in rows})


# Backends in _ops.so, and the dispatch key that they are registered for.
_NATIVE = {"cpu": "CPU", "cuda": "CUDA", "cluster": "CUDA"}


def _missing(row: Row) -> str | None:
    """Why this installation lacks the kernel of `row`."""
    key = _NATIVE.get(row.backend)
    if key is not None:
        if _native.OPS_REFUSAL is not None:
            return _native.OPS_REFUSAL
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"longreel::{row.op}.{row.backend}", key):
            hint = " (LONGREEL_CUDA=1 and nvcc add them)" if key == "CUDA" else ""
            return f"_ops.so was built without {key} kernels{hint}"
    if row.backend in ("triton", "gluon") and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if row.backend == "gluon":
        return _gluon(version("triton"))
    return None


def _gluon(found: str) -> str | None:
    """Why triton of this version has no Gluon that the kernels are written in."""
    numbers = tuple(int(number) for number in found.split(".")[:2] if number.isdigit())
    return None if numbers >= (3, 6) else f"is written in Gluon as of triton 3.6, here is {found}"


_MISSING: dict[tuple[str, str], str | None] = {}


class Request(NamedTuple):
    """What of a call decides which rows can serve it. `objection`: why a backend does not serve its values; asked last.
    `transformed`: it runs inside a transform of torch.func, or forward-mode differentiation."""

    device: str
    dtype: torch.dtype
    objection: Callable[[str], str | None] = lambda backend: None
    transformed: bool = False


def refusal(row: Row, request: Request, named: bool = False) -> str | None:
    """Why `row` cannot serve `request`, or None. `named`: the caller asked for this backend."""
    if request.device == "meta":
        # shapes alone, which the op's fake gives in every backend's name
        return None
    if not row.proven and not named:
        return f"has not yet passed its values on a card; only backend={row.backend!r} chooses it"
    missing = _MISSING[row.op, row.backend]
    if missing is not None:
        return missing
    if request.device not in row.devices:
        interpreted = row.backend == "triton" and request.device == "cpu"
        if interpreted and _INTERPRETED and not named:
            return "the Triton interpreter runs only when backend='triton' asks for it"
        if not (interpreted and _INTERPRETED):
            hint = " (TRITON_INTERPRET=1 set before the import interprets it)" if interpreted else ""
            return f"runs on {' or '.join(row.devices)}, the tensors are on {request.device}{hint}"
    if request.dtype not in row.dtypes:
        return f"takes {', '.join(_name(d) for d in row.dtypes)}, given {_name(request.dtype)}"
    if request.transformed and row.kind != "reference":
        return (
            "runs under no transform of torch.func and has no forward-mode derivative; backend='reference' does and has"
        )
    return request.objection(row.backend)


def choose(op: str, backend: str | None, request: Request) -> str:
    """The backend that serves the call: the one named, or the first of the table. Raises BackendError with every reason."""
    if backend is not None and not isinstance(backend, str):
        raise TypeError(f"backend is a {type(backend).__name__}; allowed: None, or a name")
    for row in TABLE[op]:
        if backend is None or row.backend == backend:
            objection = refusal(row, request, named=backend is not None)
            if objection is None:
                return row.backend
            if backend is not None:
                raise BackendError(f"{op}: backend={backend!r} {objection}; could run here: {_could(op, request)}")
    if backend is not None:
        known = ", ".join(repr(row.backend) for row in TABLE[op])
        raise BackendError(f"{op} has no backend {backend!r}; it has {known}")
    reasons = "; ".join(f"{row.backend}: {refusal(row, request)}" for row in TABLE[op])
    raise BackendError(f"{op}: no backend can run this call ({reasons})")


def available(op: str, device: str, dtype: torch.dtype = torch.float32) -> list[str]:
    """Backends that would run `op` there, best first."""
    request = Request(device, dtype)
    return [row.backend for row in TABLE[op] if refusal(row, request) is None]


def _could(op: str, request: Request) -> str:
    return ", ".join(row.backend for row in TABLE[op] if refusal(row, request) is None) or "none"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
