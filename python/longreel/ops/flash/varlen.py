"""One call of a flash attention over sequences of different lengths, forward and backward, by who offers it on the device.

The backward is given an output and LSE that were merged over several calls, which makes its gradients parts of their sum.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from longreel.backends import FLASH_ATTN
from longreel.ops.flash.pieces import FlashCall

# q [total_q, H, D], k and v [total_k, Hkv, D], the call, scale -> out [total_q, H, D], lse fp32 [H, total_q]
Forward = Callable[[Tensor, Tensor, Tensor, FlashCall, float], tuple[Tensor, Tensor]]
# grad_out, q, k, v, out, lse, the call, scale -> the gradients of q, k and v
Backward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, FlashCall, float], tuple[Tensor, Tensor, Tensor]]


class Varlen(NamedTuple):
    forward: Forward
    backward: Backward


def varlen(device: torch.device) -> Varlen:
    if device.type == "cpu":
        return CPU
    return TORCH if FLASH_ATTN is None else PACKAGE


def missing(device: torch.device) -> str | None:
    """Why the device has no such attention, or None."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"needs compute capability 8.0 or later, {device} has {major}.{minor}"
    if FLASH_ATTN is None and not torch.backends.cuda.is_flash_attention_available():
        return "needs flash-attn 2.7 or later, or a torch that is built with flash attention"
    return None


def _cpu_forward(q: Tensor, k: Tensor, v: Tensor, call: FlashCall, scale: float) -> tuple[Tensor, Tensor]:
    outs, lses = [], []
    for rows, keys, count in _equal_lengths(call):
        operands = _stacked(q[rows], count), *(_shared(t[keys], q, count) for t in (k, v))
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*operands, 0.0, call.causal, scale=scale)
        outs.append(_unstacked(out))
        lses.append(lse.transpose(0, 1).flatten(1))
    return torch.cat(outs), torch.cat(lses, 1)


def _cpu_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: FlashCall, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    made: list[list[Tensor]] = [[], [], []]
    for rows, keys, count in _equal_lengths(call):
        parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            _stacked(grad_out[rows], count), _stacked(q[rows], count), *(_shared(t[keys], q, count) for t in (k, v)),
            _stacked(out[rows], count), lse[:, rows].unflatten(1, (count, -1)).transpose(0, 1),
            0.0, call.causal, scale=scale,
        )  # fmt: skip
        grads = [_unstacked(part) for part in parts]
        made[0].append(grads[0])
        for found, grad in zip(made[1:], grads[1:], strict=True):
            # [keys, Hkv, D] of the heads that share them, summed in float32
            found.append(grad.unflatten(1, (k.shape[1], -1)).sum(2, dtype=torch.float32))
    return torch.cat(made[0]), torch.cat(made[1]), torch.cat(made[2])


def _equal_lengths(call: FlashCall) -> Iterator[tuple[slice, slice, int]]:
    """Rows and keys of neighbouring sequences that are equally long, and how many they are."""
    row = key = 0
    for (rows, keys), run in groupby(call.lengths):
        count = len(list(run))
        yield slice(row, row + count * rows), slice(key, key + count * keys), count
        row, key = row + count * rows, key + count * keys


def _stacked(t: Tensor, count: int) -> Tensor:
    """[count * S, H, D] as [count, H, S, D]; the kernel takes rows for contiguous."""
    return (t if t.stride(-1) == 1 else t.contiguous()).unflatten(0, (count, -1)).transpose(1, 2)


def _unstacked(t: Tensor) -> Tensor:
    return t.transpose(1, 2).flatten(0, 1)


def _shared(t: Tensor, q: Tensor, count: int) -> Tensor:
    """Keys repeated for the query heads that share them, stacked."""
    group = q.shape[1] // t.shape[1]
    return _stacked(t if group == 1 else t.repeat_interleave(group, 1), count)


def _torch_forward(q: Tensor, k: Tensor, v: Tensor, call: FlashCall, scale: float) -> tuple[Tensor, Tensor]:
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        _fitting(q), _fitting(k), _fitting(v), call.cu_q, call.cu_k, call.max_q, call.max_k,
        0.0, call.causal, False, scale=scale,
    )  # fmt: skip
    return out[..., : q.shape[-1]], lse


def _torch_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: FlashCall, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    no_dropout = torch.empty(2, dtype=torch.uint64, device=q.device)
    with _deterministic():
        grads = torch.ops.aten._flash_attention_backward(
            _fitting(grad_out), _fitting(q), _fitting(k), _fitting(v), _fitting(out), lse.contiguous(),
            call.cu_q, call.cu_k, call.max_q, call.max_k, 0.0, call.causal, no_dropout, no_dropout, scale=scale,
        )  # fmt: skip
    grad_q, grad_k, grad_v = (grad[..., : q.shape[-1]] for grad in grads)
    return grad_q, grad_k, grad_v


def _package_forward(q: Tensor, k: Tensor, v: Tensor, call: FlashCall, scale: float) -> tuple[Tensor, Tensor]:
    from flash_attn import flash_attn_varlen_func

    out, lse, _ = flash_attn_varlen_func(
        _fitting(q), _fitting(k), _fitting(v), cu_seqlens_q=call.cu_q, cu_seqlens_k=call.cu_k,
        max_seqlen_q=call.max_q, max_seqlen_k=call.max_k, softmax_scale=scale, causal=call.causal, return_attn_probs=True,
    )  # fmt: skip
    return out[..., : q.shape[-1]], lse


def _package_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: FlashCall, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    from flash_attn.flash_attn_interface import _flash_attn_varlen_backward

    operands = [_fitting(t) for t in (grad_out, q, k, v, out)]
    grads = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in operands[1:4]]
    _flash_attn_varlen_backward(
        *operands, lse.contiguous(), *grads, cu_seqlens_q=call.cu_q, cu_seqlens_k=call.cu_k,
        max_seqlen_q=call.max_q, max_seqlen_k=call.max_k, dropout_p=0.0, softmax_scale=scale, causal=call.causal,
        window_size_left=-1, window_size_right=-1, softcap=0.0, alibi_slopes=None, deterministic=True,
    )  # fmt: skip
    grad_q, grad_k, grad_v = (grad[..., : q.shape[-1]] for grad in grads)
    return grad_q, grad_k, grad_v


def _fitting(t: Tensor) -> Tensor:
    """Heads of a multiple of 8 elements, as the kernels take them, and rows that 16-byte reads can begin at."""
    if t.shape[-1] % 8:
        return torch.nn.functional.pad(t, (0, -t.shape[-1] % 8))
    aligned = t.stride(-1) == 1 and t.data_ptr() % 16 == 0 and all(step % 8 == 0 for step in t.stride()[:-1])
    return t if aligned else t.contiguous()


@contextmanager
def _deterministic() -> Iterator[None]:
    """torch's flash backward adds in a fixed order where torch is told to."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


CPU = Varlen(_cpu_forward, _cpu_backward)
TORCH = Varlen(_torch_forward, _torch_backward)
PACKAGE = Varlen(_package_forward, _package_backward)
