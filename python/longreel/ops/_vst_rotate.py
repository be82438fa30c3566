"""vst_rotate: rotary positions for the rows of Video-XL's chunks; keys and values change to position order."""

from typing import Any

import torch
from torch import Tensor

from longreel.backends import LOW, Row, reference_row
from longreel.layout import PlannedLayout, VideoLayout
from longreel.ops.common.arguments import check_tensors
from longreel.ops.common.cost import Cost, nbytes
from longreel.ops.common.layouts import planned
from longreel.ops.common.memory import check_even, check_plan, check_rows, tables
from longreel.ops.common.queries import autocast
from longreel.ops.op import Backward, Lowered, Op, run
from longreel.reference.vst_rotate import vst_rotate as reference
from longreel.schemas import arguments

NAME = "vst_rotate"
Arguments = arguments(NAME)


def vst_rotate(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    layout: VideoLayout | PlannedLayout,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate queries in their order; rotate keys, and move keys and values, to position order. In float32, rounded once.

    Args:
        q, k, v: ``[B, R, H, D]``, ``[B, R, Hkv, D]``, rows in the layout's order (``grouped()``: raw, then VST); D even, any
            strides.
        cos, sin: float32 ``[R, D/2]`` or ``[B, R, D/2]`` in position order (see `rotary_tables`): of a chunk behind n entries
            of the memory, rows n .. n + R - 1 of the table of all positions.
        layout: of these rows; one Video-XL or text document a sample.
        backend: None chooses (see `longreel.explain`); a name that cannot run raises BackendError.

    Returns:
        q, rotated, in its order; k, rotated, and v in position order, as `vst_attention` takes them.

    Raises:
        ValueError, TypeError: what does not fit, naming what was given and what is allowed.
        BackendError: no backend, or not the one named, can run the call.
    """
    rotated: tuple[Tensor, Tensor, Tensor] = run(OP, lower(q, k, v, cos, sin, layout), backend)
    return rotated


def lower(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, layout: VideoLayout | PlannedLayout) -> Lowered:
    """Checks, then the arguments of the low-level op: tables with a sample dimension."""
    check_tensors(q=q, k=k, v=v)
    q, k, v = autocast(q, k, v)
    check_rows(q, k, v)
    check_even(k.shape[3])
    plan = planned(layout, k.device)
    check_plan(plan, q)
    cos, sin = tables(k, cos, sin)
    cos, sin = (t[None] if t.dim() == 2 else t for t in (cos, sin))
    if cos.dim() != 3 or cos.shape[0] not in (1, k.shape[0]) or cos.shape[1] != k.shape[1]:
        raise ValueError(
            f"cos and sin are [{k.shape[1]}, {k.shape[3] // 2}], or so for each of {k.shape[0]} samples; given {list(cos.shape)}"
        )
    return Lowered(Arguments(q, k, v, cos, sin, plan.bounds))


def run_reference(*args: Any, same_dtype: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The reference with float32 arithmetic for narrower inputs, rounded once; `same_dtype`: in the input's dtype throughout."""
    given = Arguments(*args)
    dtype = given.q.dtype
    wide = dtype if same_dtype else torch.promote_types(dtype, torch.float32)
    q, k, v, cos, sin = (t.to(wide) for t in (given.q, given.k, given.v, given.cos, given.sin))
    q, k, v = (t.to(dtype) for t in reference(q, k, v, cos, sin, given.bounds))
    return q, k, v


def cost(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, layout: VideoLayout | PlannedLayout) -> Cost:
    """3 FLOPs an element of q and k; everything read once, q, k and v written once."""
    args = lower(q, k, v, cos, sin, layout).args
    return Cost(3 * (q.numel() + k.numel()), nbytes(*args), nbytes(args.q, args.k, args.v))


def fake(args: Any) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (t.new_empty(t.shape) for t in (args.q, args.k, args.v))
    return q, k, v


def fake_backward(args: Any) -> tuple[Tensor, Tensor, Tensor]:
    some = next(t for t in (args.grad_rotated_q, args.grad_rotated_k, args.grad_moved_v) if t is not None)
    batch, rows, _, width = some.shape
    wanted = ((args.heads, args.need_q), (args.kv_heads, args.need_k), (args.kv_heads, args.need_v))
    q, k, v = (some.new_empty((batch, rows, heads, width) if need else (0,)) for heads, need in wanted)
    return q, k, v


OP = Op(
    NAME,
    vst_rotate,
    lower,
    run_reference,
    cost,
    rows=(
        Row(NAME, "triton", ("cuda",), LOW, "every row read and written once; angles read once for four heads"),
        Row(NAME, "cpu", ("cpu",), LOW, "threaded, vectorised C++: every row read and written once"),
        reference_row(NAME),
    ),
    fake=fake,
    backward=Backward(
        sizes={"heads": lambda args: args.q.shape[2], "kv_heads": lambda args: args.k.shape[2]}, fake=fake_backward
    ),
)
