"""block_sparse_attention by the kernel for Hopper: what it takes, its tiles, its launch."""

from typing import Any

import torch
import triton
from longreel.triton_kernels.block_sparse_attention.launch import Call
from longreel.triton_kernels.block_sparse_attention.warp_specialised import block_sparse_hopper_kernel
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

TYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}
STEP = 64  # keys of a stage
STAGES = 4  # 16 KiB each of keys and values of 128 elements, beside 32 KiB of queries: 160 KiB a block


def forward(call: Call) -> tuple[Tensor, Tensor]:
    """out [B, Sq, H, D] in the dtype of q, lse fp32 [B, H, Sq]; both contiguous."""
    batch, queries, heads, head = call.q.shape
    keys = call.k.shape[1]
    out = call.q.new_empty(batch, queries, heads, head)
    lse = call.q.new_empty(batch, heads, queries, dtype=torch.float32)
    halves = 2 if call.tile_rows > 64 else 1
    blocks = triton.cdiv(call.tile_rows, 64 * halves)
    rows = tuple(_rows(t) for t in (call.k, call.v))
    whole = None not in rows
    with torch.cuda.device_of(call.q):
        block_sparse_hopper_kernel[(call.tiles.shape[0] * blocks * call.samples * heads,)](
            *call.heads, *(rows if whole else (None, None)), call.layout, out, lse,
            call.scale, queries, keys, heads, call.group, call.samples, blocks, call.global_keys,
            GLOBAL=call.global_keys > 0, WHOLE=whole, HEAD=head, BN=STEP, STAGES=STAGES, HALVES=halves,
            num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return out, lse


def _rows(tensor: Tensor) -> Any | None:
    """[B, Sk, Hkv, D] as rows [B Sk, Hkv D] for the copy engine; None where they do not stand so, or are none."""
    batch, keys, heads, head = tensor.shape
    b, r, h, d = tensor.stride()
    if tensor.numel() == 0 or d != 1 or (heads > 1 and h != head) or (batch > 1 and b != keys * r):
        return None
    layout = gl.NVMMASharedLayout.get_default_for([STEP, head], TYPES[tensor.dtype])
    return TensorDescriptor(tensor, [batch * keys, heads * head], [r, 1], [STEP, head], layout)
