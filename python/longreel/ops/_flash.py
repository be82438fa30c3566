"""block_sparse_attention by torch's own flash attention: the ranges of a layout as causal and full pieces, merged by LSE.

A row's keys are at most three pieces: what stands before its segment and is seen by all of it, the causal square of the
segment itself, and its global keys. Every piece is one call; the LSE of a row's pieces says how much each counts. Backward, each
piece is given the merged output and LSE, which makes its gradients parts of the sum.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longreel.layout import PlannedLayout, VideoLayout
from longreel.layout.ranges import ranges


class Piece(NamedTuple):
    """Rows `row .. end` of `sample` (of every sample where the layout has one) over keys `first .. last` of K, or of G."""

    sample: int
    row: int
    end: int
    first: int
    last: int
    is_global: bool
    causal: bool


def refusal(plan: PlannedLayout, scale: float) -> str | None:
    """Why the call is no sum of such pieces, or None."""
    if torch.compiler.is_compiling():
        return "makes its calls from the layout on the host, which torch.compile would freeze into the graph"
    if plan.start_given:
        return "knows the left padding of the layout, not one given by with_start"
    if not scale > 0:
        return "takes a scale above 0: torch's causal mask is an infinity that is scaled too"
    r = ranges(plan.layout)
    several = (r.rows > 1) & (r.lo < r.hi)
    if (several & (r.lo_step != 0)).any():
        return "has no sliding windows: their rows see keys from different first ones on"
    if (several & ((r.up != 1) | (r.over != 1))).any():
        return "takes rows in position order: in grouped order a row does not see one key more than the row before"
    return None


@lru_cache(maxsize=16)
def pieces(layout: VideoLayout) -> tuple[Piece, ...]:
    """The calls that make up the layout: O(segments)."""
    made = []
    for sample, row, rows, lo, _, hi, _, carry, over, glo, ghi in ranges(layout).table().tolist():
        own = hi - 1 + (carry // over)
        span = sample, row, row + rows
        if rows == 1:
            parts = [(lo, own + 1, False, False)]
        else:
            parts = [(lo, own, False, False), (own, own + rows, False, True)] if lo <= own else []
        parts.append((glo, ghi, True, False))
        made += [Piece(*span, *part) for part in parts if part[0] < part[1]]
    return tuple(made)


def executed_pairs(layout: VideoLayout) -> int:
    """(query row, key) pairs of one head that torch's CPU kernel multiplies, over all samples: blocks of rows, each with the
    blocks of 512 keys up to its last row where the piece is causal."""
    pairs = 0
    for piece in pieces(layout):
        rows, keys = piece.end - piece.row, piece.last - piece.first
        block = 256 if rows >= 768 else 64 if rows >= 192 else 32
        starts = range(0, rows, block)
        reach = (min(keys, -(-(start + block) // 512) * 512) if piece.causal else keys for start in starts)
        pairs += sum(min(block, rows - start) * seen for start, seen in zip(starts, reach, strict=True))
    return pairs


def attend(
    q: Tensor, k: Tensor, v: Tensor, global_k: Tensor | None, global_v: Tensor | None, plan: PlannedLayout, scale: float
) -> tuple[Tensor, Tensor]:
    """out [B, Sq, H, D] and lse [B, H, Sq], with gradients for all of the tensors."""
    out, lse = _Pieces.apply(q, k, v, global_k, global_v, plan.global_index, plan.layout, scale)
    return out, lse


class _Pieces(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, given_k: Tensor | None, given_v: Tensor | None, global_index: Tensor,
        layout: VideoLayout, scale: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        batch, rows, heads, _ = q.shape
        far_k, far_v = _global_keys(k, v, given_k, given_v, global_index)
        # Merged in float32 and float64, rounded once; [B, H, Sq, D] and [B, H, Sq]
        out = torch.zeros(batch, heads, rows, q.shape[3], dtype=torch.float32, device=q.device)
        lse = torch.full((batch, heads, rows), -torch.inf, dtype=torch.float64, device=q.device)
        # torch's kernel divides by the number of samples and heads
        for piece in pieces(layout) if q.numel() else ():
            where = _samples(piece, layout), slice(None), slice(piece.row, piece.end)
            part, part_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *_operands(piece, layout, q, k, v, far_k, far_v), 0.0, piece.causal, scale=scale
            )
            share = torch.sigmoid(part_lse - lse[where]).float()[..., None]
            out[where] = torch.lerp(out[where], part.float(), share)
            lse[where] = torch.logaddexp(lse[where], part_lse)
        rounded, lse = out.transpose(1, 2).to(q.dtype), lse.float()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, given_k, given_v, global_index, rounded, lse)
        ctx.layout, ctx.scale = layout, scale
        return rounded, lse

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, given_k, given_v, global_index, out, lse = ctx.saved_tensors
        tensors = [q, k, v, *_global_keys(k, v, given_k, given_v, global_index)]
        grads = [torch.zeros(t.shape, dtype=torch.float32, device=t.device) for t in tensors]
        grad_out = torch.zeros_like(out) if grad_out is None else grad_out
        width = q.shape[3]
        if grad_lse is not None:
            # ds = p (dp - delta + grad_lse): a column of ones in V whose upstream gradient is grad_lse, and output 0
            column = grad_lse.transpose(1, 2)[..., None].to(q.dtype)
            tensors = [torch.cat([t, torch.full_like(t[..., :1], i in (2, 4))], -1) for i, t in enumerate(tensors)]
            out = torch.cat([out, torch.zeros_like(column)], -1)
            grad_out = torch.cat([grad_out, column], -1)
        for piece in pieces(ctx.layout) if q.numel() else ():
            samples, rows = _samples(piece, ctx.layout), slice(piece.row, piece.end)
            near = slice(piece.first, piece.last)
            parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad_out[samples, rows].transpose(1, 2), *_operands(piece, ctx.layout, *tensors),
                out[samples, rows].transpose(1, 2), lse[samples, :, rows], 0.0, piece.causal, scale=ctx.scale,
            )  # fmt: skip
            grad_q, grad_k, grad_v = (part.transpose(1, 2)[..., :width].float() for part in parts)
            grads[0][samples, rows] += grad_q
            for place, part in ((3 if piece.is_global else 1, grad_k), (4 if piece.is_global else 2, grad_v)):
                grads[place][samples, near] += part.unflatten(2, (k.shape[2], -1)).sum(3)
        if given_k is None:
            # what -1 pads is in no piece: its gradient is 0
            at = global_index.long().clamp(min=0)[..., None, None].expand(grads[3].shape)
            for own, far in zip(grads[1:3], grads[3:], strict=True):
                own.scatter_add_(1, at, far)
        rounded = [grad.to(q.dtype) for grad in grads]
        return *rounded[:3], *(rounded[3:] if given_k is not None else (None, None)), None, None, None


def _global_keys(
    k: Tensor, v: Tensor, given_k: Tensor | None, given_v: Tensor | None, global_index: Tensor
) -> tuple[Tensor, Tensor]:
    """[B, G, Hkv, D] each: those given, or rows of k and v."""
    if given_k is not None and given_v is not None:
        return given_k, given_v
    at = global_index.long().clamp(min=0)[..., None, None].expand(len(k), -1, *k.shape[2:])
    return k.gather(1, at), v.gather(1, at)


def _samples(piece: Piece, layout: VideoLayout) -> slice:
    return slice(None) if layout.batch_size == 1 else slice(piece.sample, piece.sample + 1)


def _operands(
    piece: Piece, layout: VideoLayout, q: Tensor, k: Tensor, v: Tensor, far_k: Tensor, far_v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The piece's q, k, v as [B, H, S, D], keys repeated for the heads that share them."""
    samples, keys = _samples(piece, layout), slice(piece.first, piece.last)
    group = q.shape[2] // k.shape[2]
    chosen = (far_k, far_v) if piece.is_global else (k, v)
    near_k, near_v = (t[samples, keys] if group == 1 else t[samples, keys].repeat_interleave(group, 2) for t in chosen)
    rows = q[samples, piece.row : piece.end]
    return rows.transpose(1, 2), near_k.transpose(1, 2), near_v.transpose(1, 2)
