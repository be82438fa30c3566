"""vst_attention: rows under a layout that also attend to a memory whose length lies on the device."""

from typing import Any

import torch
from torch import Tensor

from longreel.backends import LOW, Row, reference_row
from longreel.layout import PlannedLayout, VideoLayout, visible_pairs
from longreel.layout.numbers import flag
from longreel.ops.common.arguments import check_tensors
from longreel.ops.common.cost import Cost, nbytes
from longreel.ops.common.layouts import planned
from longreel.ops.common.memory import HEAD_DIM, check_memory, check_plan, check_rows
from longreel.ops.common.queries import autocast, exact, resolve_scale
from longreel.ops.op import Lowered, Op, run
from longreel.reference.vst_attention import vst_attention as reference
from longreel.schemas import arguments

NAME = "vst_attention"
Arguments = arguments(NAME)


def vst_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mem_k: Tensor,
    mem_v: Tensor,
    mem_len: Tensor,
    layout: VideoLayout | PlannedLayout,
    *,
    mem_start: Tensor | None = None,
    k_before: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str | None = None,
) -> Any:
    """Attention of new rows over one another, as `layout` says, and over a memory. For inference.

    Every row attends to the memory's first ``mem_len[b]`` entries, and behind them as many as `layout` shows it global keys:
    those of a group of chunks are appended to the memory first (`vst_append_`), then all chunks run at once. A chunk alone
    has none that it attends to; text and decoding take ``VideoLayout.causal(rows)``. The plan does not depend on the memory,
    so that one serves all steps, and nothing is planned while it grows. Keys are rotated. In training the chunks' global keys
    are ordinary tensors: ``block_sparse_attention(..., global_k=, global_v=)``.

    Args:
        q: ``[B, R, H, D]``, rows in the layout's order; float32, bfloat16 or float16 (float64 on the reference), D of 1 to 256.
        k, v: ``[B, R, Hkv, D]`` in position order, as `vst_rotate` gives them; any strides.
        mem_k, mem_v: ``[B, Hkv, capacity, D]``, rotated; what lies behind the visible entries may hold anything.
        mem_len: int32 ``[B]`` on the same device: entries before these rows.
        layout: a `VideoLayout` of these rows alone, planned at the first call with it, or the `PlannedLayout` that
            ``layout.to(device)`` gives, which torch.compile and CUDA graph capture need. One sample serves any batch.
        mem_start: int32 ``[B]``: entries before it are left padding, masked for every row.
        k_before: int32 ``[B]``: the rows' own keys stand behind so many others in k and v ``[B, S, Hkv, D]``, which every row
            attends to: the text so far of one of several questions about one memory. None: k and v are the rows' alone.
        scale: factor on the scores; None is ``D ** -0.5``.
        return_lse: also return the natural log of the softmax denominator, float32 ``[B, H, R]``.
        backend: None chooses (see `longreel.explain`); a name that cannot run raises BackendError.

    Returns:
        ``[B, R, H, D]`` in the input's dtype, accumulated in float32; with `return_lse` a pair.

    Raises:
        ValueError, TypeError: what does not fit, naming what was given and what is allowed.
        RuntimeError: on the CPU, `mem_len` is beyond the memory.
        BackendError: no backend, or not the one named, can run the call.
    """
    flag("return_lse", return_lse)
    lowered = lower(q, k, v, mem_k, mem_v, mem_len, layout, mem_start=mem_start, k_before=k_before, scale=scale)
    out, lse = run(OP, lowered, backend)
    return (out, lse) if return_lse else out


def lower(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mem_k: Tensor,
    mem_v: Tensor,
    mem_len: Tensor,
    layout: VideoLayout | PlannedLayout,
    *,
    mem_start: Tensor | None = None,
    k_before: Tensor | None = None,
    scale: float | None = None,
) -> Lowered:
    """Checks, then the arguments of the low-level op and the planned layout."""
    check_tensors(q=q, k=k, v=v, mem_k=mem_k, mem_v=mem_v)
    q, k, v, mem_k, mem_v = autocast(q, k, v, mem_k, mem_v)
    check_rows(q, k, v, alone=k_before is None)
    if not 1 <= k.shape[3] <= HEAD_DIM:
        raise ValueError(f"the head size D is {k.shape[3]}; allowed are 1 to {HEAD_DIM}")
    check_memory(k, mem_k=mem_k, mem_v=mem_v, mem_len=mem_len, mem_start=mem_start, k_before=k_before)
    plan = planned(layout, q.device)
    check_plan(plan, q)
    if k_before is not None and plan.rule != "text":
        raise ValueError(f"{plan.layout!r}: only text rows stand behind other keys (k_before)")
    if plan.global_index.shape[1] > mem_k.shape[2]:
        raise ValueError(
            f"the layout has {plan.global_index.shape[1]} global keys: appended, they do not fit a memory of {mem_k.shape[2]}"
        )
    tile_rows, tile_keys = plan.tile
    args = Arguments(
        q, k, v, mem_k, mem_v, mem_len, mem_start, k_before, plan.bounds, plan.tiles, plan.order, tile_rows, tile_keys,
        resolve_scale(scale, q.shape[-1]),
    )  # fmt: skip
    return Lowered(args, plan)


def run_reference(*args: Any, same_dtype: bool = False) -> tuple[Tensor, Tensor]:
    """The reference with float32 arithmetic for narrower inputs, rounded once; `same_dtype`: in the input's dtype throughout."""
    given = Arguments(*args)
    dtype = given.q.dtype
    wide = dtype if same_dtype else torch.promote_types(dtype, torch.float32)
    q, k, v, mem_k, mem_v = (t.to(wide) for t in (given.q, given.k, given.v, given.mem_k, given.mem_v))
    with exact(q.device):
        out, lse = reference(
            q, k, v, mem_k, mem_v, given.mem_len, given.mem_start, given.k_before, given.bounds, given.scale
        )
    return out.to(dtype), lse


def cost(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mem_k: Tensor,
    mem_v: Tensor,
    mem_len: Tensor,
    layout: VideoLayout | PlannedLayout,
    **options: Any,
) -> Cost:
    """4 D for every visible (query, key) pair and head; rows, the memory's entries and the plan read once, out and lse written.

    Reads the lengths on the host.
    """
    args, plan = lower(q, k, v, mem_k, mem_v, mem_len, layout, **options)
    batch, rows, heads, width = q.shape
    entries = int(mem_len.sum())
    repeat = batch // plan.layout.batch_size if plan.layout.batch_size else 0
    before = 0 if options.get("k_before") is None else int(options["k_before"].sum())
    pairs = repeat * visible_pairs(plan.layout) + rows * (entries + before)
    read = nbytes(args.q, args.k, args.v, mem_len, plan.bounds, plan.tiles, plan.order)
    read += 2 * (entries + batch * plan.global_index.shape[1]) * k.shape[2] * width * args.k.element_size()
    return Cost(4 * width * heads * pairs, read, batch * rows * heads * (width * args.q.element_size() + 4))


def fake(args: Any) -> tuple[Tensor, Tensor]:
    batch, rows, heads, _width = args.q.shape
    return args.q.new_empty(args.q.shape), args.q.new_empty(batch, heads, rows, dtype=torch.float32)


OP = Op(
    NAME,
    vst_attention,
    lower,
    run_reference,
    cost,
    rows=(
        Row(NAME, "triton", ("cuda",), LOW, "block_sparse_attention's kernels, the memory in place of its global keys"),
        Row(NAME, "cpu", ("cpu",), LOW, "block_sparse_attention's kernel, the memory in place of its global keys"),
        reference_row(NAME),
    ),
    fake=fake,
)
