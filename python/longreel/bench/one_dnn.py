"""Matrix products through oneDNN, which MKL's float32 runs far below on AMD, where this CPU has the dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor


def multiplies(dtype: torch.dtype) -> bool:
    """Whether this CPU's own instructions multiply `dtype`: bfloat16 only where oneDNN says so, float16 never asked for."""
    if dtype is torch.bfloat16:
        return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype in (torch.float32, torch.float64)


def takes(x: Tensor) -> bool:
    """Whether oneDNN has a product for x where it stands."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and multiplies(x.dtype)
    )


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., C] @ weight [M, C]^T, no gradient, on CPU through oneDNN; in float32 where the CPU has no such product."""
    if takes(x):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        return product
    if x.device.type == "cpu" and x.dtype is torch.bfloat16:
        return linear(x.float(), weight.float()).to(x.dtype)
    return F.linear(x, weight)
