"""Dense attention in plain PyTorch: the rate that sparse attention is held against."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from longreel.measure.clock import Timed

# Products of the backward pass over those of the forward: scores again, then dP, dQ, dK, dV.
BACKWARD_PRODUCTS = 2.5
_ROWS = 1024


def dense_attention(
    heads: int, width: int, dtype: torch.dtype, device: torch.device, backward: bool
) -> tuple[Timed, float]:
    """A call of SDPA without a mask on [1, heads, 1024, width], with the gradients of all inputs on request, and its FLOPs."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, upstream = (torch.randn(1, heads, _ROWS, width, generator=generator).to(device, dtype) for _ in range(4))
    flops = 4 * heads * width * _ROWS**2
    if not backward:
        return partial(F.scaled_dot_product_attention, q, k, v), flops

    def trained() -> tuple[Any, ...]:
        query, key, value = (t.detach().requires_grad_() for t in (q, k, v))
        with torch.enable_grad():
            out = F.scaled_dot_product_attention(query, key, value)
        return torch.autograd.grad(out, (query, key, value), upstream)

    return trained, flops * (1 + BACKWARD_PRODUCTS)
