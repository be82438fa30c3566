"""foo's Triton kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def foo_kernel(x, out, count, scale, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < count).to(tl.float32)
    tl.store(out + at, (value * scale).to(out.dtype.element_ty), mask=at < count)


def foo(x: Tensor, scale: float) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        foo_kernel[(triton.cdiv(x.numel(), 256),)](x.contiguous(), out, x.numel(), scale, 256)
    return out


def foo_backward(grad_output: Tensor, columns: int, scale: float) -> Tensor:
    return foo(grad_output, scale)
