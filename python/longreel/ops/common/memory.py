"""Checks that the ops on Video-XL's memory share."""

import torch
from torch import Tensor

from longreel.layout import PlannedLayout
from longreel.ops.common.arguments import check_dense

HEAD_DIM = 256


def check_rows(q: Tensor | None, k: Tensor, v: Tensor, alone: bool = True) -> None:
    """q [B, R, H, D] (if any), k and v [B, R, Hkv, D] (not `alone`: at least so many rows): one dtype, one device, heads that
    belong together."""
    if k.dim() != 4:
        raise ValueError(f"k must be [B, R, Hkv, D], given {tuple(k.shape)}")
    check_alike("v", v, "k", k)
    if v.shape != k.shape:
        raise ValueError(f"v {tuple(v.shape)} must have the shape of k {tuple(k.shape)}")
    if q is None:
        return
    check_alike("q", q, "k", k)
    rows_fit = q.dim() == 4 and (q.shape[1] == k.shape[1] if alone else q.shape[1] <= k.shape[1])
    if not rows_fit or (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]):
        raise ValueError(f"q must be [B, R, H, D] with B, R and D of k {tuple(k.shape)}, given {tuple(q.shape)}")
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        raise ValueError(f"q has {q.shape[2]} heads and k has {k.shape[2]}: H must be a multiple of Hkv")


def check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.dtype != other.dtype:
        raise TypeError(f"{name} is {tensor.dtype} and {other_name} is {other.dtype}: they must have one dtype")
    if tensor.device != other.device:
        raise ValueError(
            f"{name} is on {tensor.device} and {other_name} is on {other.device}: they must be on one device"
        )


def check_even(width: int) -> None:
    if not 2 <= width <= HEAD_DIM or width % 2:
        raise ValueError(f"the head size D is {width}; allowed are even numbers, 2 to {HEAD_DIM}")


def check_memory(k: Tensor, **memory: Tensor | None) -> None:
    """mem_k and mem_v [B, Hkv, capacity, D] belong to k [B, R, Hkv, D]; lengths are int32 [B]."""
    batch, _, kv_heads, width = k.shape
    capacity: int | None = None
    for name, tensor in memory.items():
        if tensor is None:
            continue
        check_dense(name, tensor)
        if name in ("mem_k", "mem_v"):
            check_alike(name, tensor, "k", k)
            if tensor.dim() != 4 or (*tensor.shape[:2], tensor.shape[3]) != (batch, kv_heads, width):
                raise ValueError(
                    f"{name} must be [{batch}, {kv_heads}, capacity, {width}], given {tuple(tensor.shape)}"
                )
            if capacity is not None and tensor.shape[2] != capacity:
                raise ValueError(f"mem_k has room for {capacity} entries and mem_v for {tensor.shape[2]}")
            capacity = tensor.shape[2]
        elif tensor.dtype is not torch.int32 or tensor.shape != (batch,):
            raise ValueError(
                f"{name} is int32 [{batch}]; given {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            )
        elif tensor.device != k.device:
            raise ValueError(f"{name} is on {tensor.device} and k is on {k.device}: they must be on one device")


def check_written(**memory: Tensor) -> None:
    """Tensors that an op writes have a place of its own for every element."""
    for name, tensor in memory.items():
        if any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)):
            raise ValueError(
                f"{name} {tuple(tensor.shape)} has strides {tuple(tensor.stride())}, one place for several entries, and is"
                " written: clone it first"
            )


def tables(k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin as the ops take them: float32, or float64 for float64 rows."""
    half, wide = k.shape[3] // 2, torch.float64 if k.dtype is torch.float64 else torch.float32
    for name, table in (("cos", cos), ("sin", sin)):
        check_dense(name, table)
        if not table.is_floating_point():
            raise TypeError(f"{name} is {table.dtype}; allowed: float32")
        if table.shape[-1:] != (half,) or table.shape != cos.shape:
            raise ValueError(
                f"cos and sin are float32 [..., {half}] of one shape; {name} is {table.dtype} {list(table.shape)}"
            )
        if table.device != k.device:
            raise ValueError(f"{name} is on {table.device} and k is on {k.device}: they must be on one device")
    return (cos, sin) if cos.dtype is wide is sin.dtype else (cos.to(wide), sin.to(wide))


def check_plan(plan: PlannedLayout, q: Tensor) -> None:
    """A layout of whole Video-XL or text sequences, one document a sample, whose rows are those of q."""
    samples = plan.bounds.shape[0]
    if plan.bounds.device != q.device:
        raise ValueError(
            f"the layout is planned for {plan.bounds.device} and q is on {q.device}: use layout.to(q.device)"
        )
    if plan.bounds.shape[1] != q.shape[1]:
        raise ValueError(
            f"the layout has {plan.bounds.shape[1]} query rows and q has {q.shape[1]}: they must be as many"
        )
    if samples != 1 and samples != q.shape[0]:
        raise ValueError(f"the layout has {samples} samples and q has {q.shape[0]}: one sample, or as many, is allowed")
    if plan.start_given or plan.rule not in ("vst", "text"):
        raise ValueError(
            f"{plan.layout!r}: rows beside a memory are one whole Video-XL or text document a sample, without padding or window"
        )
