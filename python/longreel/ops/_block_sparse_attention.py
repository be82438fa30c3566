"""block_sparse_attention: attention under a video layout, where a row attends to two ranges of keys; no mask is made."""

from typing import Any

import torch
from torch import Tensor

from longreel import _native
from longreel.backends import FLASH_ATTN, LOW, SHORT, Row, reference_row
from longreel.layout import PlannedLayout, VideoLayout, executed_pairs, visible_pairs
from longreel.layout.numbers import flag
from longreel.measure.machine import cpu_isa
from longreel.ops.common.arguments import check_tensors
from longreel.ops.common.cost import Cost, nbytes
from longreel.ops.common.hopper import refused_by_gluon
from longreel.ops.common.layouts import planned
from longreel.ops.common.queries import autocast, exact, resolve_scale
from longreel.ops.flash import attend as flash
from longreel.ops.flash import pieces
from longreel.ops.op import Backward, Lowered, Op, run, wants_grad
from longreel.reference.block_sparse_attention import block_sparse_attention as reference
from longreel.schemas import arguments

NAME = "block_sparse_attention"
Arguments = arguments(NAME)
HEAD_DIM = 512


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: VideoLayout | PlannedLayout,
    *,
    scale: float | None = None,
    global_k: Tensor | None = None,
    global_v: Tensor | None = None,
    return_lse: bool = False,
    backend: str | None = None,
) -> Any:
    """``softmax(scale * q k^T) v`` over the keys that `layout` shows every row: ``K[lo:hi)`` and ``G[glo:ghi)``.

    G are the global keys (prefix, VoCo, VST, sinks), which rows of their document attend to from anywhere. Left padding and
    documents are part of the layout. A row that attends to nothing gives 0, lse -inf and no gradient.

    Args:
        q: ``[B, Sq, H, D]``, rows in the layout's order; float32, bfloat16 or float16 (float64 on the reference), D of 1 to
            512, any strides.
        k, v: ``[B, Sk, Hkv, D]`` in position order, dtype and device of `q`, H a multiple of Hkv: head h reads key head
            ``h // (H / Hkv)``. Sk may exceed the layout's keys (a cache); what lies beyond is masked.
        layout: a `VideoLayout`, planned at the first call with it (the last few plans are cached), or the `PlannedLayout` that
            ``layout.to(device)`` gives, which torch.compile and CUDA graph capture need. One sample serves any batch.
        scale: factor on the scores; None is ``D ** -0.5``.
        global_k, global_v: ``[B, G, Hkv, D]`` in the order of ``layout.global_index``: the global keys where they are not the
            rows of k and v (rotated to another position, or from a cache). None reads them from k and v in place.
        return_lse: also return the natural log of the softmax denominator, float32 ``[B, H, Sq]``. Differentiable.
        backend: None chooses (see `longreel.explain`); a name that cannot run raises BackendError.

    Returns:
        ``[B, Sq, H, D]`` in the input's dtype, accumulated in float32; with `return_lse` a pair.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, naming what was given and what is allowed.
        RuntimeError: a `VideoLayout` that is not planned under torch.compile or capture.
        BackendError: no backend, or not the one named, can run the call.
    """
    flag("return_lse", return_lse)
    out, lse = run(OP, lower(q, k, v, layout, scale=scale, global_k=global_k, global_v=global_v), backend)
    return (out, lse) if return_lse else out


def lower(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: VideoLayout | PlannedLayout,
    *,
    scale: float | None = None,
    global_k: Tensor | None = None,
    global_v: Tensor | None = None,
) -> Lowered:
    """Checks, then the arguments of the low-level op and the planned layout."""
    if (global_k is None) != (global_v is None):
        given, missing = ("global_v", "global_k") if global_k is None else ("global_k", "global_v")
        raise ValueError(f"{given} is given without {missing}: give both or neither")
    if global_k is None or global_v is None:
        check_tensors(q=q, k=k, v=v)
        q, k, v = autocast(q, k, v)
        if not _belong_together(q, k, v):
            _check_shapes(q=q, k=k, v=v)
    else:
        check_tensors(q=q, k=k, v=v, global_k=global_k, global_v=global_v)
        q, k, v, global_k, global_v = autocast(q, k, v, global_k, global_v)
        _check_shapes(q=q, k=k, v=v, global_k=global_k, global_v=global_v)
    if isinstance(layout, VideoLayout):
        # Before the plan of another size is made.
        _check_sizes((layout.batch_size,), layout.queries, layout.keys, q, k)
    plan = planned(layout, q.device, q)
    _check_layout(plan, q, k, global_k)
    # Without KV blocks k and v would be given gradients of zero.
    if wants_grad((q, k, v, global_k, global_v)) and plan.extent.shape[0] and not plan.kv_blocks.shape[0]:
        raise ValueError(
            "a step of text or VST rows alone is planned for inference and has no gradient: plan the layout's rows"
        )
    tile_rows, tile_keys = plan.tile
    args = Arguments(
        q, k, v, global_k, global_v, plan.global_index, plan.start, plan.bounds, plan.tiles, plan.order, plan.kv_blocks,
        plan.query_ranges, plan.kv_order, tile_rows, tile_keys, resolve_scale(scale, q.shape[-1]),
    )  # fmt: skip
    return Lowered(args, plan)


def _belong_together(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether `_check_shapes` has nothing to say, in a third of its time."""
    if not (q.dim() == k.dim() == v.dim() == 4 and q.dtype is k.dtype is v.dtype and q.device == k.device == v.device):
        return False
    batch, _, heads, width = q.shape
    keys, _, kv_heads, key_width = k.shape
    return (
        batch == keys
        and width == key_width
        and k.shape == v.shape
        and 1 <= width <= HEAD_DIM
        and kv_heads > 0
        and heads % kv_heads == 0
    )


def _check_shapes(**tensors: Tensor) -> None:
    """One dtype, one device, shapes that belong together."""
    q, k = tensors["q"], tensors["k"]
    for name, tensor in tensors.items():
        if tensor.dtype != q.dtype:
            raise TypeError(f"q is {q.dtype} and {name} is {tensor.dtype}: they must have one dtype")
        if tensor.device != q.device:
            raise ValueError(f"q is on {q.device} and {name} is on {tensor.device}: they must be on one device")
        if tensor.dim() != 4:
            wanted = "[B, Sq, H, D]" if name == "q" else "[B, G, Hkv, D]" if "global" in name else "[B, Sk, Hkv, D]"
            raise ValueError(f"{name} must be {wanted}, given {tuple(tensor.shape)}")
        if tensor.shape[0] != q.shape[0] or tensor.shape[3] != q.shape[3]:
            raise ValueError(
                f"q {tuple(q.shape)} and {name} {tuple(tensor.shape)} must have one batch size and one head size"
            )
        if name != "q" and tensor.shape[2] != k.shape[2]:
            raise ValueError(f"k has {k.shape[2]} heads and {name} has {tensor.shape[2]}: they must have as many")
    for a, b in (("k", "v"), ("global_k", "global_v")):
        if a in tensors and tensors[a].shape[1] != tensors[b].shape[1]:
            raise ValueError(
                f"{a} has {tensors[a].shape[1]} keys and {b} has {tensors[b].shape[1]}: one number is needed"
            )
    if not 1 <= q.shape[3] <= HEAD_DIM:
        raise ValueError(f"the head size D is {q.shape[3]}; allowed are 1 to {HEAD_DIM}")
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        raise ValueError(f"q has {q.shape[2]} heads and k has {k.shape[2]}: H must be a multiple of Hkv")


def _check_layout(plan: PlannedLayout, q: Tensor, k: Tensor, global_k: Tensor | None) -> None:
    """The layout expects these rows and keys."""
    if plan.bounds.device != q.device:
        raise ValueError(
            f"the layout is planned for {plan.bounds.device} and q is on {q.device}: use layout.to(q.device)"
        )
    samples, queries, _ = plan.bounds.shape
    _check_sizes((samples, plan.start.shape[0]), queries, plan.extent.shape[0], q, k)
    if global_k is not None and global_k.shape[1] != plan.global_index.shape[1]:
        raise ValueError(
            f"the layout has {plan.global_index.shape[1]} global keys and global_k has {global_k.shape[1]}"
        )


def _check_sizes(samples: tuple[int, ...], queries: int, keys: int, q: Tensor, k: Tensor) -> None:
    batch, rows, _, _ = q.shape
    there = k.shape[1]
    if queries != rows:
        raise ValueError(f"the layout has {queries} query rows and q has {rows}: they must be as many")
    if keys > there:
        raise ValueError(f"layout expects at least {keys} keys, k has {there}")
    for several in samples:
        if several != 1 and several != batch:
            raise ValueError(f"the layout has {several} samples and q has {batch}: one sample, or as many, is allowed")


def run_reference(*args: Any, same_dtype: bool = False) -> tuple[Tensor, Tensor]:
    """The reference with float32 arithmetic for narrower inputs, rounded once; `same_dtype`: in the input's dtype throughout."""
    given = Arguments(*args)
    dtype = given.q.dtype
    wide = dtype if same_dtype else torch.promote_types(dtype, torch.float32)
    q, k, v = (t.to(wide) for t in (given.q, given.k, given.v))
    global_k, global_v = (None if t is None else t.to(wide) for t in (given.global_k, given.global_v))
    with exact(q.device):
        out, lse = reference(q, k, v, global_k, global_v, given.bounds, given.global_index, given.start, given.scale)
    return out.to(dtype), lse


def cost(q: Tensor, k: Tensor, v: Tensor, layout: VideoLayout | PlannedLayout, **options: Any) -> Cost:
    """4 D for every visible (query, key) pair and head; q, k, v, the global keys and the plan read once, out and lse written."""
    args, plan = lower(q, k, v, layout, **options)
    batch, rows, heads, width = q.shape
    samples = plan.bounds.shape[0]
    flops = 4 * width * heads * (batch // samples if samples else 0) * _pairs(plan)
    written = batch * rows * heads * (width * args.q.element_size() + 4)
    return Cost(flops, nbytes(*args), written)


def _pairs(plan: PlannedLayout) -> int:
    """Visible pairs; a layout that was planned on the device is read back."""
    if isinstance(plan.layout, VideoLayout):
        return visible_pairs(plan.layout)
    bounds = plan.bounds.long()
    return int((bounds[..., 1::2] - bounds[..., ::2]).sum())


def executed_flops(
    plan: PlannedLayout, backend: str, heads: int, kv_heads: int, width: int, dtype: torch.dtype
) -> int | None:
    """4 D for every (query, key) pair that the backend's forward multiplies under `plan`, masked lanes among them, for each
    head and sample of the layout; None where that is not known.

    cpu: counted by the code that hands the kernel its steps: the rows of a strip times its keys in multiples of 16; on AMX
    tiles, bfloat16, of two strips times what either meets in multiples of 32.
    triton, gluon: whole tiles of the plan, of heads with their padding. flash: torch's kernel on the CPU, see
    `pieces.executed_pairs`.
    """
    if backend == "cpu" and _native.HOST is not None:
        layout = plan.layout
        tiles, order = plan.tiles.numpy(), plan.order.numpy()
        paired = dtype is torch.bfloat16 and cpu_isa() == "amx_bf16"
        sizes = (layout.batch_size, layout.queries, heads, kv_heads, width)
        pairs = _native.HOST.executed_pairs(tiles, order, *sizes, paired=paired)
    elif backend in ("triton", "gluon"):
        from longreel.triton_kernels.common.tiles import head_parts

        width = sum(head_parts(width))
        pairs = executed_pairs(plan.layout.plan(plan.tile, bounds=False))
    elif backend == "flash" and plan.start.device.type == "cpu" and flash.refusal(plan, 1.0) is None:
        pairs = pieces.executed_pairs(plan.layout)
    else:
        return None
    return int(4 * width * heads * pairs)


def fake(args: Any) -> tuple[Tensor, Tensor]:
    batch, rows, heads, _width = args.q.shape
    return args.q.new_empty(args.q.shape), args.q.new_empty(batch, heads, rows, dtype=torch.float32)


def objection(lowered: Lowered) -> str | None:
    """Of the flash backend."""
    return flash.refusal(lowered.rest, lowered.args.scale)


def unfit(lowered: Lowered) -> str | None:
    """Why the gluon backend does not take the tensors."""
    args = lowered.args
    given = (args.q, args.k, args.v, args.global_k, args.global_v)
    return refused_by_gluon(tuple(tensor for tensor in given if tensor is not None))


def attend(lowered: Lowered) -> tuple[Tensor, Tensor]:
    """The flash backend."""
    args = lowered.args
    return flash.attend(args.q, args.k, args.v, args.global_k, args.global_v, lowered.rest, args.scale)


OP = Op(
    NAME,
    block_sparse_attention,
    lower,
    run_reference,
    cost,
    rows=(
        Row(NAME, "triton", ("cuda",), LOW, "tiles of the plan only, full ones without a mask"),
        Row(NAME, "cpu", ("cpu",), LOW, "threaded, vectorised C++ over the plan's tiles"),
        Row(
            NAME,
            "flash",
            ("cpu", "cuda"),
            SHORT,
            "flash attention over the layout's pieces, merged by LSE: on CUDA"
            f" {'torch' if FLASH_ATTN is None else f'flash-attn {FLASH_ATTN}'}'s, on CPU torch's",
            "composition",
        ),
        Row(
            NAME,
            "gluon",
            ("cuda",),
            SHORT,
            "for Hopper: warps that bring keys and values beside warpgroups that multiply; few rows as on triton",
            proven=False,
        ),
        reference_row(NAME),
    ),
    fake=fake,
    backward=Backward(needs={"need_kv": ("k", "v"), "need_global": ("global_k", "global_v")}),
    compositions={"flash": attend},
    objections={"flash": objection, "gluon": unfit},
)
