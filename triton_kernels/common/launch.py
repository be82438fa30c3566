"""What every host function shares: dtypes, sizes rounded for tiles, and when bf16 is computed in fp32."""

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TRITON_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def pow2(size: int, low: int, high: int) -> int:
    """`size` rounded up to a power of two, kept within low..high."""
    return min(max(1 << max(size - 1, 0).bit_length(), low), high)


def upcast(tensor: Tensor) -> bool:
    """The interpreter's bf16 arithmetic is wrong, its fp32 is not."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.bfloat16
