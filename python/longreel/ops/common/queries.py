"""Shapes and dtypes that the attention ops share: queries [*q, M, C] over frames of patches."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from longreel.ops.common.arguments import check_dense, number


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Floating tensors cast as torch.autocast asks for a matrix product (float64 stays)."""
    if not torch._C._is_any_autocast_enabled():
        return tensors
    device = tensors[-1].device.type
    if device not in ("cpu", "cuda") and not torch.amp.is_autocast_available(device):
        return tensors
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t.dtype is torch.float64 else t.to(dtype) for t in tensors)


def exact(device: torch.device) -> AbstractContextManager[object]:
    """Inside torch.autocast too, what is computed within keeps its dtype."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def check_pair(query: Tensor, patches: Tensor) -> torch.Size:
    """One dtype, one device, one width. The shape of the patches: asking a tensor for it once more costs 0.15 us."""
    if query.dtype != patches.dtype:
        raise TypeError(f"query is {query.dtype} and patches are {patches.dtype}: they must have one dtype")
    if query.device != patches.device:
        raise ValueError(f"query is on {query.device} and patches are on {patches.device}: they must be on one device")
    rows, tokens = query.shape, patches.shape
    if len(rows) < 2:
        raise ValueError(f"query must be [*q, M, C], given {tuple(rows)}")
    if len(tokens) < 2:
        raise ValueError(f"patches must be [F, N, C] (or packed [total, C]), given {tuple(tokens)}")
    if rows[-1] != tokens[-1]:
        raise ValueError(f"query has width {rows[-1]} and patches have width {tokens[-1]}")
    if tokens[-1] == 0:
        raise ValueError("the width C of query and patches must be at least 1")
    return tokens


def lower_queries(
    query: Tensor, query_mask: Tensor | None, frames: int
) -> tuple[Tensor, Tensor | None, tuple[int, ...], tuple[int, ...]]:
    """query [*q, M, C] -> [P, Q, M, C] with Q = 1 or F; mask likewise [P, Q, M]; the prompts' shape, whose product is P;
    and the batch shape of the result, *q broadcast with (F,)."""
    *lead, m, c = query.shape
    if not lead and query_mask is None:
        # [M, C], as most calls have it
        return query.reshape(1, 1, m, c), None, (), (frames,)
    sets = lead[-1] if lead else 1
    if sets == 1 or sets == frames:
        prompts = tuple(lead[:-1])
        shape = (*prompts, frames)
    elif frames == 1:
        prompts = shape = tuple(lead)
        sets = 1
    else:
        raise ValueError(
            f"query {tuple(query.shape)} is [*q, M, C] whose q must broadcast with ({frames},), the frames:"
            f" its last entry is {sets}, allowed are 1 and {frames}"
        )
    count = 1
    for size in prompts:
        count = count * size
    if query_mask is not None:
        check_dense("query_mask", query_mask)
        if query_mask.dtype is not torch.bool:
            raise TypeError(f"query_mask is {query_mask.dtype}; it must be bool, True for a valid query row")
        if query_mask.device != query.device:
            raise ValueError(f"query_mask is on {query_mask.device} and query is on {query.device}")
        try:
            query_mask = query_mask.expand(*lead, m)
        except RuntimeError:
            raise ValueError(
                f"query_mask {tuple(query_mask.shape)} does not broadcast to query's rows {(*lead, m)}"
            ) from None
        query_mask = query_mask.reshape(count, sets, m)
    return query.reshape(count, sets, m, c), query_mask, prompts, shape


def resolve_scale(scale: float | None, width: int) -> float:
    """`None` is C^-0.5, the released LLaMA-VID rule."""
    return float(width) ** -0.5 if scale is None else number("scale", scale)
