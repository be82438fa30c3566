"""vst_attention: block_sparse_attention's forward and decoding kernels, which read a memory in place of global keys.

The memory [B, Hkv, capacity, D] is a strided view of the compact cache: nothing is gathered or copied, and its length is read
on the device, so that launches depend on the capacity alone.
"""

from typing import Any

from longreel.triton_kernels.block_sparse_attention import run
from longreel.triton_kernels.block_sparse_attention.launch import memory_call
from longreel.triton_kernels.common.launch import DTYPES
from torch import Tensor

__all__ = ["DTYPES", "vst_attention"]


def vst_attention(*inputs: Any) -> tuple[Tensor, Tensor]:
    """`inputs` as in `memory_call` -> out [B, R, H, D], lse fp32 [B, H, R]; what lies beyond k or the memory is hidden."""
    return run(memory_call(*inputs))
