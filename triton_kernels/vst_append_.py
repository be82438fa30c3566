"""vst_append_: keys rotated to the slots where they stay, values beside them, behind what a memory holds.

The number of entries is read where it lies, on the device. A row that the memory has no slot for is not written.
"""

import functools

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.common.bound import Bound
from longreel.triton_kernels.common.launch import DTYPES
from longreel.triton_kernels.common.rotary import read_angles, read_halves, turn_constants, turned, write_halves
from longreel.triton_kernels.common.tiles import heads_of
from torch import Tensor

__all__ = ["DTYPES", "vst_append_"]


@triton.jit(do_not_specialize=("rows", "slots", "blocks"))
def vst_append_kernel(
    mem_k, mem_v, mem_len, k, v, cos, sin, rows, slots, heads, blocks,
    HALF: tl.constexpr, BH: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """A program: BM rows of one head. slots: of the memory, as far as there are angles."""
    h = (tl.program_id(0) % heads).to(tl.int64)
    block = tl.program_id(0) // heads
    b = (block // blocks).to(tl.int64)
    # [BM]
    r = block % blocks * BM + tl.arange(0, BM)
    slot = tl.load(mem_len + b) + r
    m_r = (r < rows) & (slot >= 0) & (slot < slots)
    b_cos = read_angles(cos, slot, m_r, HALF, BH)
    b_sin = read_angles(sin, slot, m_r, HALF, BH)
    b_k = read_halves(k, b, h, r, m_r, HALF, BH)
    b_v = read_halves(v, b, h, r, m_r, HALF, BH)
    write_halves(mem_k, b, h, turned(b_k, b_cos, b_sin), slot, m_r, HALF, BH)
    write_halves(mem_v, b, h, b_v, slot, m_r, HALF, BH)


@functools.lru_cache
def bound_append(head: int) -> Bound:
    return Bound(vst_append_kernel, **turn_constants(head))


def vst_append_(mem_k: Tensor, mem_v: Tensor, mem_len: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> None:
    """mem_k and mem_v [B, Hkv, capacity, D], mem_len int32 [B], k and v [B, n, Hkv, D], cos and sin fp32 [positions, D/2]."""
    batch, rows, heads, head = k.shape
    if k.numel() == 0:
        return
    append = bound_append(head)
    blocks = -(-rows // append.constants["BM"])
    memory = (heads_of(t.transpose(1, 2)) for t in (mem_k, mem_v))
    with torch.cuda.device_of(k):
        append(
            batch * blocks * heads,
            *memory, mem_len.contiguous(), heads_of(k), heads_of(v), cos.contiguous(), sin.contiguous(),
            rows, min(mem_k.shape[2], cos.shape[0]), heads, blocks,
        )  # fmt: skip
