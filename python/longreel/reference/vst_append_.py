"""vst_append_ by its definition: keys are rotated once, to the slot where they stay."""

import torch
from torch import Tensor

from longreel.rotary import rotated


def vst_append_(mem_k: Tensor, mem_v: Tensor, mem_len: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> None:
    """mem_k and mem_v [B, Hkv, capacity, D] get k and v [B, n, Hkv, D] at slots mem_len[b] .. mem_len[b] + n - 1.

    The position of a slot is its number: row s of cos and sin [positions, D/2].
    """
    batch, rows = k.shape[:2]
    # [B, n]
    slot = mem_len.long()[:, None] + torch.arange(rows, device=k.device)
    # [B, n, Hkv, D]
    turned = rotated(k, cos[slot][:, :, None], sin[slot][:, :, None])
    sample = torch.arange(batch, device=k.device)[:, None]
    mem_k.transpose(1, 2)[sample, slot] = turned.to(mem_k.dtype)
    mem_v.transpose(1, 2)[sample, slot] = v
