"""vst_append_: keys and values at the end of a memory, every key rotated once to the slot where it stays."""

from typing import Any

import torch
from torch import Tensor

from longreel.backends import LOW, Row, reference_row
from longreel.ops.common.arguments import check_tensors
from longreel.ops.common.cost import Cost, nbytes
from longreel.ops.common.memory import check_even, check_memory, check_rows, check_written, tables
from longreel.ops.op import Lowered, Op, run
from longreel.reference.vst_append_ import vst_append_ as reference
from longreel.schemas import arguments

NAME = "vst_append_"
Arguments = arguments(NAME)


def vst_append_(
    mem_k: Tensor,
    mem_v: Tensor,
    mem_len: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    backend: str | None = None,
) -> None:
    """Write rows into slots ``mem_len[b] ..`` of a memory, in place: keys rotated to their slot's number, values as they are.

    `mem_len` stays as it is, so that all layers of a step read and write behind the same length; the owner of the memory adds
    to it once they did.

    Args:
        mem_k, mem_v: ``[B, Hkv, capacity, D]``, any strides.
        mem_len: int32 ``[B]`` on the same device: entries so far.
        k, v: ``[B, n, Hkv, D]``, keys not rotated; D even, any strides. A view of a chunk's VST rows does.
        cos, sin: float32 ``[positions, D/2]`` of positions 0, 1, ... (see `rotary_tables`), as many as slots are written.
        backend: None chooses (see `longreel.explain`); a name that cannot run raises BackendError.

    Raises:
        ValueError, TypeError: what does not fit, naming what was given and what is allowed.
        RuntimeError: on the CPU, more rows than the memory has room for, nothing is written then. A gradient is wanted.
    """
    lowered = lower(mem_k, mem_v, mem_len, k, v, cos, sin)
    check_written(mem_k=mem_k, mem_v=mem_v)
    if mem_k is mem_v:
        raise ValueError("mem_k and mem_v are one tensor: keys and values need a memory each")
    run(OP, lowered, backend)


def lower(mem_k: Tensor, mem_v: Tensor, mem_len: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Lowered:
    check_tensors(k=k, v=v, mem_k=mem_k, mem_v=mem_v)
    check_rows(None, k, v)
    check_even(k.shape[3])
    check_memory(k, mem_k=mem_k, mem_v=mem_v, mem_len=mem_len)
    cos, sin = tables(k, cos, sin)
    if cos.dim() != 2:
        raise ValueError(f"cos and sin are [positions, {k.shape[3] // 2}], given {list(cos.shape)}")
    if k.shape[1] > min(mem_k.shape[2], cos.shape[0]):
        raise ValueError(
            f"{k.shape[1]} rows do not fit: the memory has room for {mem_k.shape[2]}, cos and sin have {cos.shape[0]} positions"
        )
    return Lowered(Arguments(mem_k, mem_v, mem_len, k, v, cos, sin))


def run_reference(*args: Any, same_dtype: bool = False) -> None:
    """The reference with float32 arithmetic for narrower inputs, rounded once; `same_dtype`: in the input's dtype throughout."""
    given = Arguments(*args)
    wide = given.k.dtype if same_dtype else torch.promote_types(given.k.dtype, torch.float32)
    k, cos, sin = (t.to(wide) for t in (given.k, given.cos, given.sin))
    reference(given.mem_k, given.mem_v, given.mem_len, k, given.v, cos, sin)


def cost(mem_k: Tensor, mem_v: Tensor, mem_len: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Cost:
    """3 FLOPs an element of k; rows and their angles read once, and written once."""
    angles = 2 * 4 * k.shape[0] * k.shape[1] * (k.shape[3] // 2)
    return Cost(3 * k.numel(), nbytes(k, v, mem_len) + angles, nbytes(k, v))


def fake(args: Any) -> None:
    return None


OP = Op(
    NAME,
    vst_append_,
    lower,
    run_reference,
    cost,
    rows=(
        Row(NAME, "triton", ("cuda",), LOW, "every row read and written once, behind a length on the device"),
        Row(NAME, "cpu", ("cpu",), LOW, "threaded, vectorised C++: every row read and written once"),
        reference_row(NAME),
    ),
    fake=fake,
)
