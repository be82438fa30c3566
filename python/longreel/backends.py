"""Which kernel may run where, and why not: one table. `backend=None` takes the first row without an objection."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from longreel import _native
from longreel import schemas as schemas  # schemas stand before any kernel is looked up

_LOW = (torch.float32, torch.bfloat16, torch.float16)
_SHORT = (torch.bfloat16, torch.float16)
_ALL = (*_LOW, torch.float64)
_ANY_DEVICE = ("cpu", "cuda", "mps", "xpu")
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


class BackendError(RuntimeError):
    """The backend that was asked for cannot run this call."""


@dataclass(frozen=True)
class Row:
    """One kernel of one op: where it runs, and why it stands at its place in the table."""

    op: str
    backend: str
    devices: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    why: str


def _rows(op: str, *kernels: Row) -> tuple[Row, ...]:
    return (
        *kernels,
        Row(op, "cpu", ("cpu",), _LOW, "threaded, vectorised C++ that reads the patches from memory once"),
        _reference(op),
    )


def _reference(op: str) -> Row:
    return Row(
        op, "reference", _ANY_DEVICE, _ALL, "plain PyTorch on any device and dtype: the specification, slow on purpose"
    )


def _flash_attn() -> str | None:
    """Version of the package flash-attn where it has the functions that are called (2.7 and later, below 3)."""
    try:
        found = version("flash-attn")
    except PackageNotFoundError:
        return None
    numbers = tuple(int(number) for number in found.split(".")[:2] if number.isdigit())
    return found if (2, 7) <= numbers < (3,) else None


FLASH_ATTN = _flash_attn()
_FRAME_PASS = "one read of the patches, the second sweep from L2"
_FRAME_PASS_CUDA = f"CUDA C++: {_FRAME_PASS}; no compile at the first call"

TABLE: dict[str, tuple[Row, ...]] = {
    "context_attention": _rows(
        "context_attention",
        Row("context_attention", "cuda", ("cuda",), _LOW, _FRAME_PASS_CUDA),
        Row("context_attention", "triton", ("cuda",), _LOW, _FRAME_PASS),
    ),
    "adaptive_pool": _rows(
        "adaptive_pool",
        Row("adaptive_pool", "cuda", ("cuda",), _LOW, "CUDA C++, 16-byte loads, no compile at the first call"),
        Row("adaptive_pool", "triton", ("cuda",), _LOW, "the same gather, compiled at the first call"),
    ),
    "compress_frames": _rows(
        "compress_frames",
        Row("compress_frames", "cuda", ("cuda",), _LOW, _FRAME_PASS_CUDA),
        Row("compress_frames", "triton", ("cuda",), _LOW, _FRAME_PASS),
    ),
    "block_sparse_attention": (
        Row("block_sparse_attention", "triton", ("cuda",), _LOW, "tiles of the plan only, full ones without a mask"),
        Row("block_sparse_attention", "cpu", ("cpu",), _LOW, "threaded, vectorised C++ over the plan's tiles"),
        Row(
            "block_sparse_attention",
            "flash",
            ("cpu", "cuda"),
            _SHORT,
            "flash attention over the layout's pieces, merged by LSE: on CUDA"
            f" {'torch' if FLASH_ATTN is None else f'flash-attn {FLASH_ATTN}'}'s, on CPU torch's",
        ),
        _reference("block_sparse_attention"),
    ),
}


def _missing(row: Row) -> str | None:
    """Why this installation lacks the kernel of `row`."""
    if row.backend in ("cpu", "cuda"):
        if _native.OPS_REFUSAL is not None:
            return _native.OPS_REFUSAL
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"longreel::{row.op}.{row.backend}", row.backend.upper()):
            return f"_ops.so was built without {row.backend.upper()} kernels" + (
                " (LONGREEL_CUDA=1 and nvcc add them)" if row.backend == "cuda" else ""
            )
    if row.backend == "triton" and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return None


_MISSING = {(op, row.backend): _missing(row) for op, rows in TABLE.items() for row in rows}


@dataclass(frozen=True)
class Request:
    """What of a call decides which rows can serve it. `objection`: why a backend does not serve its values; asked last."""

    device: str
    dtype: torch.dtype
    objection: Callable[[str], str | None] = lambda backend: None


def refusal(row: Row, request: Request, named: bool = False) -> str | None:
    """Why `row` cannot serve `request`, or None. `named`: the caller asked for this backend."""
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
    return request.objection(row.backend)


def choose(op: str, backend: str | None, request: Request) -> str:
    """The backend that serves the call: the one named, or the first of the table. Raises BackendError with every reason."""
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
