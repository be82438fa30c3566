"""block_sparse_attention by flash attention: the layout's pieces, a call each, merged by their LSE.

The LSE of a row's pieces says how much each counts. Backward, each piece is given the merged output and LSE, which makes its
gradients parts of the sum.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from longreel.layout import PlannedLayout, VideoLayout
from longreel.layout.step_rows import StepRows
from longreel.ops.flash.pieces import FlashCall, calls, ranges_of
from longreel.ops.flash.varlen import missing, varlen


def refusal(plan: PlannedLayout, scale: float) -> str | None:
    """Why the call is no sum of such pieces, or None."""
    if torch.compiler.is_compiling():
        return "makes its calls from the layout on the host, which torch.compile would freeze into the graph"
    if plan.start_given:
        return "knows the left padding of the layout, not one given by with_start"
    if not scale > 0:
        return "takes a scale above 0: flash attention masks with an infinity that is scaled too"
    if not isinstance(plan.layout, VideoLayout | StepRows):
        return "makes its calls on the host, which knows no layout planned on the device, or moved there"
    r = ranges_of(plan.layout)
    several = (r.rows > 1) & (r.lo < r.hi)
    if (several & (r.lo_step != 0)).any():
        return "has no sliding windows: their rows attend to keys from different first ones on"
    if (several & ((r.up > 1) | (r.over != 1))).any():
        return (
            "takes rows in position order: in grouped order a row does not attend to one key more than the row before"
        )
    return missing(plan.start.device)


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
        layout: VideoLayout | StepRows, scale: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        batch, rows, heads, width = q.shape
        tensors = _flattened(q, k, v, *_global_keys(k, v, given_k, given_v, global_index))
        # Merged in float32 and float64, rounded once; [B * Sq, H, D] and [B * Sq, H]
        out = torch.zeros(batch * rows, heads, width, dtype=torch.float32, device=q.device)
        lse = torch.full((batch * rows, heads), -torch.inf, dtype=torch.float64, device=q.device)
        for call in _calls(q, k, global_index, layout):
            part, part_lse = varlen(q.device).forward(*_operands(call, tensors), call, scale)
            part_lse = part_lse.T
            share = torch.sigmoid(part_lse - lse[call.rows]).float()[..., None]
            _move(out, call.rows, part.float(), share)
            lse[call.rows] = torch.logaddexp(lse[call.rows], part_lse.double())
        rounded = out.to(q.dtype).view(q.shape)
        final = lse.float().view(batch, rows, heads).transpose(1, 2).contiguous()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, given_k, given_v, global_index, rounded, final)
        ctx.layout, ctx.scale = layout, scale
        return rounded, final

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            grads = _Pieces.gradients(ctx, grad_out, grad_lse)
        if torch.is_grad_enabled():
            upstream = [t for t in (grad_out, grad_lse, *ctx.saved_tensors) if t is not None]
            made = iter(_NoSecondDerivative.apply(len(upstream), *upstream, *(g for g in grads if g is not None)))
            grads = tuple(None if grad is None else next(made) for grad in grads)
        return grads

    @staticmethod
    def gradients(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, given_k, given_v, global_index, out, lse = ctx.saved_tensors
        wide = [q, k, v, *_global_keys(k, v, given_k, given_v, global_index)]
        tensors = _flattened(*wide)
        grads = [torch.zeros(t.shape, dtype=torch.float32, device=t.device) for t in tensors]
        upstream, result = (
            grad_out.flatten(0, 1) if grad_out is not None else torch.zeros_like(tensors[0]),
            out.flatten(0, 1),
        )
        if grad_lse is not None:
            upstream, result, tensors = _with_lse(grad_lse.transpose(1, 2).flatten(0, 1), upstream, result, tensors)
        # [H, B * Sq]
        lse, width = lse.transpose(0, 1).flatten(1), q.shape[-1]
        for call in _calls(q, k, global_index, ctx.layout):
            made = varlen(q.device).backward(
                upstream[call.rows], *_operands(call, tensors), result[call.rows], lse[:, call.rows], call, ctx.scale
            )
            grad_q, grad_k, grad_v = (grad[..., :width] for grad in made)
            _add(grads[0], call.rows, grad_q)
            _add(grads[3 if call.is_global else 1], call.keys, grad_k)
            _add(grads[4 if call.is_global else 2], call.keys, grad_v)
        grads = [grad.view(t.shape) for grad, t in zip(grads, wide, strict=True)]
        if given_k is None:
            # what -1 pads is in no piece: its gradient is 0
            at = global_index.long().clamp(min=0)[..., None, None].expand(grads[3].shape)
            for own, of_global in zip(grads[1:3], grads[3:], strict=True):
                own.scatter_add_(1, at, of_global)
        rounded = [grad.to(q.dtype) for grad in grads]
        return *rounded[:3], *(rounded[3:] if given_k is not None else (None, None)), None, None, None


class _NoSecondDerivative(torch.autograd.Function):
    """The gradients as they are; a derivative of them is asked for in vain."""

    @staticmethod
    def forward(ctx: Any, upstream: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.view_as(t) for t in tensors[upstream:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError("block_sparse_attention has no second derivative on this backend; backend='reference' has")


def _global_keys(
    k: Tensor, v: Tensor, given_k: Tensor | None, given_v: Tensor | None, global_index: Tensor
) -> tuple[Tensor, Tensor]:
    """[B, G, Hkv, D] each: those given, or rows of k and v."""
    if given_k is not None and given_v is not None:
        return given_k, given_v
    at = global_index.long().clamp(min=0)[..., None, None].expand(len(k), -1, *k.shape[2:])
    return k.gather(1, at), v.gather(1, at)


def _with_lse(
    grad_lse: Tensor, grad_out: Tensor, out: Tensor, tensors: list[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """One channel more, which adds the LSE's gradient to that of the scores, ds = p (dP - delta + grad_lse): V has ones there,
    the output's gradient grad_lse [B * Sq, H], and the output counts as 0."""
    width = grad_out.shape[-1]
    if grad_out.is_cuda and width == 256:
        raise NotImplementedError(
            "backend='flash': the gradient of the LSE takes one channel beside the head's, 256 in all; this head has 256"
        )
    ones = {2, 4}
    tensors = [pad(t, (0, 1), value=float(i in ones)) for i, t in enumerate(tensors)]
    grad_out = pad(grad_out, (0, 1))
    grad_out[..., width] = grad_lse
    return grad_out, pad(out, (0, 1)), tensors


def _calls(q: Tensor, k: Tensor, global_index: Tensor, layout: VideoLayout | StepRows) -> tuple[FlashCall, ...]:
    return calls(layout, len(q), k.shape[1], global_index.shape[1], q.device) if q.numel() else ()


def _flattened(*tensors: Tensor) -> list[Tensor]:
    """[B * S, heads, D] of q, k, v and the global keys and values."""
    return [t.flatten(0, 1) for t in tensors]


def _operands(call: FlashCall, tensors: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The call's rows of q and its keys and values."""
    q, k, v, global_k, global_v = tensors
    chosen_k, chosen_v = (global_k, global_v) if call.is_global else (k, v)
    return q[call.rows], chosen_k[call.keys], chosen_v[call.keys]


def _move(total: Tensor, where: slice | Tensor, part: Tensor, share: Tensor) -> None:
    """total[where] becomes a mixture of itself and `part`."""
    if isinstance(where, slice):
        total[where].lerp_(part, share)
    else:
        total[where] = total[where].lerp_(part, share)


def _add(total: Tensor, where: slice | Tensor, part: Tensor) -> None:
    """total[where] += part, in a fixed order where a key stands several times."""
    if isinstance(where, slice):
        total[where] += part
    elif total.is_cuda:
        # sorts by index, then adds in order
        total.index_put_((where,), part.float(), accumulate=True)
    else:
        total.index_add_(0, where, part.float())
