"""qformer_attention: few queries over very many keys, with the projections of keys and values inside."""

import numbers
from typing import Any

import torch
from torch import Tensor

from longreel.backends import LOW, Row, reference_row
from longreel.ops.common.arguments import check_dense, check_tensors, given
from longreel.ops.common.cost import Cost, nbytes
from longreel.ops.common.queries import autocast, exact, resolve_scale
from longreel.ops.op import Backward, Lowered, Op, run
from longreel.reference.qformer_attention import qformer_attention as reference
from longreel.schemas import arguments

NAME = "qformer_attention"
Arguments = arguments(NAME)


def qformer_attention(
    query: Tensor,
    x: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    b_v: Tensor | None = None,
    *,
    num_heads: int,
    scale: float | None = None,
    key_mask: Tensor | None = None,
    frame_table: Tensor | None = None,
    frame_size: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """Cross-attention of a Q-Former: ``softmax(scale * q_h (W_k x)_h^T) (W_v x + b_v)_h`` for every head h.

    BLIP-2 (arXiv 2301.12597), section 3.1; Video-LLaMA (arXiv 2306.02858), section 2.1. The kernels never project a key:
    ``q_h . (W_k,h x) = (W_k,h^T q_h) . x``, and ``sum_n p_n (W_v,h x_n + b) = W_v,h (sum_n p_n x_n) + b``. A bias of the keys
    adds the same number to every score of a query and cancels in the softmax, so there is none.

    Args:
        query: ``[B, Nq, H*D]``, or ``[1, Nq, H*D]`` for queries that all samples share, projected. float32, bfloat16, float16
            (float64 on the reference).
        x: ``[B, S, C]``, what is read. Dtype and device of `query`, as are all the others; any strides.
        w_k, w_v: ``[H*D, C]``, weights of the projections of keys and values, as a Linear has them.
        b_v: ``[H*D]``, the bias of the values.
        num_heads: H; it divides the width of `query`.
        scale: factor on the scores; None is ``D ** -0.5``.
        key_mask: bool ``[B, S]``, True for a key that is read; others may hold anything. A sample without one gives 0.
        frame_table: ``[T, C]``, added to the keys of each frame: key n belongs to frame ``n // frame_size``.
        frame_size: keys of a frame, ``S = T * frame_size``; None is ``S / T``.
        backend: None chooses (see `longreel.explain`); a name that cannot run raises BackendError.

    Returns:
        ``[B, Nq, H*D]`` in the input's dtype, accumulated in float32.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, naming what was given and what is allowed.
        BackendError: no backend, or not the one named, can run the call.
    """
    lowered = lower(
        query, x, w_k, w_v, b_v, num_heads=num_heads, scale=scale, key_mask=key_mask, frame_table=frame_table,
        frame_size=frame_size,
    )  # fmt: skip
    out: Tensor = run(OP, lowered, backend)[0]
    return out.to(lowered.args.x.dtype)


def qformer_attention_of_part(
    query: Tensor,
    x: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    b_v: Tensor | None = None,
    *,
    backend: str | None = None,
    **how: Any,
) -> tuple[Tensor, Tensor]:
    """`qformer_attention` where x is some of the keys: what a sum over all parts takes.

    Returns:
        out ``[B, Nq, H*D]`` and the logarithm of the scores' summed exponentials ``[B, H, Nq]``; float32 (float64 of that).
    """
    out, lse = run(OP, lower(query, x, w_k, w_v, b_v, **how), backend)
    return out, lse


def lower(
    query: Tensor,
    x: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    b_v: Tensor | None = None,
    *,
    num_heads: int,
    scale: float | None = None,
    key_mask: Tensor | None = None,
    frame_table: Tensor | None = None,
    frame_size: int | None = None,
) -> Lowered:
    """Checks, then the arguments of the low-level op."""
    tensors = {"query": query, "x": x, "w_k": w_k, "w_v": w_v}
    tensors |= {name: t for name, t in (("b_v", b_v), ("frame_table", frame_table)) if t is not None}
    check_tensors(**tensors)
    tensors = dict(zip(tensors, autocast(*tensors.values()), strict=True))
    x = tensors["x"]
    for name, tensor in tensors.items():
        if tensor.dtype != x.dtype:
            raise TypeError(f"{name} is {tensor.dtype} and x is {x.dtype}: they must have one dtype")
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device} and x is on {x.device}: they must be on one device")
    heads = _whole("num_heads", num_heads)
    width = _check_shapes(heads, **tensors)
    _check_mask(key_mask, x)
    size = _frame_size(frame_table, frame_size, x.shape[1])
    args = Arguments(
        tensors["query"], x, tensors["w_k"], tensors["w_v"], tensors.get("b_v"), key_mask, tensors.get("frame_table"),
        size, heads, resolve_scale(scale, width // heads),
    )  # fmt: skip
    return Lowered(args)


def _whole(name: str, value: Any) -> Any:
    if not isinstance(value, numbers.Integral | torch.SymInt) or isinstance(value, bool):
        raise TypeError(f"{name} is {given(value)}; allowed: a whole number")
    if value < 1:
        raise ValueError(f"{name} is {given(value)}; allowed: at least 1")
    if not isinstance(value, torch.SymInt) and int(value) >= 2**63:
        raise ValueError(f"{name} is beyond 64 bits")
    return value if isinstance(value, torch.SymInt) else int(value)


def _check_shapes(num_heads: int, query: Tensor, x: Tensor, w_k: Tensor, w_v: Tensor, **rest: Tensor) -> int:
    """The width H*D of the queries."""
    for name, tensor in (("query [B, Nq, H*D]", query), ("x [B, S, C]", x)):
        if tensor.dim() != 3:
            raise ValueError(f"{name} must have 3 dimensions, given {tuple(tensor.shape)}")
    (batch, _, channels), width = x.shape, query.shape[2]
    if query.shape[0] not in (1, batch):
        raise ValueError(f"query has {query.shape[0]} samples; allowed are 1 and {batch}, those of x")
    if width == 0 or width % num_heads != 0 or channels == 0:
        raise ValueError(
            f"query has width {width} and x {channels}: {num_heads} heads (num_heads) must divide the first, none may be 0"
        )
    wanted = {"w_k": (width, channels), "w_v": (width, channels), "b_v": (width,)}
    for name, tensor in {"w_k": w_k, "w_v": w_v, **rest}.items():
        if name in wanted and tuple(tensor.shape) != wanted[name]:
            raise ValueError(f"{name} must be {list(wanted[name])}, given {tuple(tensor.shape)}")
        if name == "frame_table" and (tensor.dim() != 2 or tensor.shape[1] != channels):
            raise ValueError(f"frame_table must be [T, {channels}], given {tuple(tensor.shape)}")
    return width


def _check_mask(key_mask: Tensor | None, x: Tensor) -> None:
    if key_mask is None:
        return
    check_dense("key_mask", key_mask)
    if key_mask.dtype is not torch.bool:
        raise TypeError(f"key_mask is {key_mask.dtype}; it must be bool, True for a key that is read")
    if key_mask.device != x.device:
        raise ValueError(f"key_mask is on {key_mask.device} and x is on {x.device}")
    if key_mask.shape != x.shape[:2]:
        raise ValueError(f"key_mask must be {list(x.shape[:2])}, given {tuple(key_mask.shape)}")


def _frame_size(table: Tensor | None, size: int | None, keys: int) -> Any:
    """Keys of a frame; 1 where there is no table."""
    if table is None:
        if size is not None:
            raise ValueError(f"frame_size is {given(size)} and there is no frame_table; allowed: None")
        return 1
    frames = table.shape[0]
    if size is None:
        if frames == 0 or keys % frames != 0:
            raise ValueError(f"frame_table has {frames} frames, which do not divide the {keys} keys of x evenly")
        return max(1, keys // frames)
    size = _whole("frame_size", size)
    if frames * size != keys:
        raise ValueError(f"frame_table has {frames} frames of {size} keys (frame_size), x has {keys} keys")
    return size


def run_reference(*args: Any, same_dtype: bool = False) -> tuple[Tensor, Tensor]:
    """The reference with float32 arithmetic for narrower inputs; `same_dtype`: in the input's dtype throughout.

    The low-level op does not round its output: the backward needs it as it is.
    """
    dtype = args[0].dtype
    wide = torch.promote_types(dtype, torch.float32)
    computed = dtype if same_dtype else wide
    widened: list[Any] = [t.to(computed) if isinstance(t, Tensor) and t.is_floating_point() else t for t in args]
    with exact(args[0].device):
        out, lse = reference(*widened)
    return out.to(wide), lse.to(wide)


def absorbed_flops(samples: int, queries: int, keys: int, channels: int, width: int, heads: int, shared: bool) -> int:
    """Scores and sums over the keys as they are, and the weights once a query."""
    each = 4 * samples * heads * queries * keys * channels
    return each + 2 * (samples + (1 if shared else samples)) * queries * width * channels


def projected_flops(samples: int, queries: int, keys: int, channels: int, width: int) -> int:
    """The projections of every key, then attention within the heads."""
    return 4 * samples * keys * width * (channels + queries)


def form(query: Tensor, x: Tensor, *args: Any, **options: Any) -> str:
    """FLOPs of both forms: the op computes one, `longreel.nn.QFormer` and patched models the smaller."""
    low = lower(query, x, *args, **options).args
    (batch, keys, channels), (shared, queries, width) = low.x.shape, low.query.shape
    absorbed = absorbed_flops(batch, queries, keys, channels, width, low.num_heads, shared < batch) / 1e9
    projected = projected_flops(batch, queries, keys, channels, width) / 1e9
    fewer = "fewer" if absorbed < projected else "no fewer"
    return (
        f"form: projections absorbed into the queries, {absorbed:.4g} GFLOP, {fewer} than with keys and values projected,"
        f" {projected:.4g} GFLOP; the op has this form alone, nn.QFormer takes the smaller"
    )


def cost(query: Tensor, x: Tensor, *args: Any, **options: Any) -> Cost:
    """What the absorbed form takes: every key read once."""
    low = lower(query, x, *args, **options).args
    (batch, keys, channels), (shared, queries, width) = low.x.shape, low.query.shape
    flops = absorbed_flops(batch, queries, keys, channels, width, low.num_heads, shared < batch)
    written = batch * queries * (width * low.x.element_size() + 4 * low.num_heads)
    return Cost(flops, nbytes(*low), written)


def fake(args: Any) -> tuple[Tensor, Tensor]:
    batch, (queries, width) = args.x.shape[0], args.query.shape[1:]
    return (
        args.x.new_empty(batch, queries, width, dtype=torch.float32),
        args.x.new_empty(batch, args.num_heads, queries, dtype=torch.float32),
    )


OP = Op(
    NAME,
    qformer_attention,
    lower,
    run_reference,
    cost,
    rows=(
        Row(
            NAME,
            "triton",
            ("cuda",),
            LOW,
            "projections absorbed into the queries, softmax weights stored, keys read twice",
        ),
        Row(
            NAME,
            "cpu",
            ("cpu",),
            LOW,
            "threaded, vectorised C++: projections absorbed into the queries, keys read once",
        ),
        reference_row(NAME),
    ),
    fake=fake,
    backward=Backward(),
    form=form,
)
