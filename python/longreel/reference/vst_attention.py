"""vst_attention by its definition: rows of a layout that also attend to a memory, through a dense mask (small sizes)."""

import torch
from torch import Tensor

LIMIT = 1 << 28


def vst_attention(
    q: Tensor, k: Tensor, v: Tensor, mem_k: Tensor, mem_v: Tensor, mem_len: Tensor, mem_start: Tensor | None,
    k_before: Tensor | None, bounds: Tensor, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """q [B, R, H, D], k and v [B, S, Hkv, D], mem_k and mem_v [B, Hkv, capacity, D] -> out [B, R, H, D], lse [B, H, R].

    bounds [1 or B, R, 4] is lo, hi, glo, ghi: the row attends to K[lo : hi) and entries mem_start[b] .. mem_len[b] + ghi - 1
    of the memory: what stood there before, and the layout's own global keys as far as the row attends to them, which were
    appended to it. k_before [B]: keys of K that stand before those of the rows, all of which they attend to; lo is 0 then.
    """
    batch, rows, heads, _ = q.shape
    keys, capacity = k.shape[1], mem_k.shape[2]
    if batch * heads * rows * (keys + capacity) > LIMIT:
        raise ValueError(f"vst_attention: the reference would hold more than {LIMIT} scores")
    lo, hi, _, ghi = bounds.unsqueeze(-1).unbind(2)
    key, slot = torch.arange(keys, device=q.device), torch.arange(capacity, device=q.device)
    hi = hi if k_before is None else hi + k_before[:, None, None]
    first = torch.zeros_like(mem_len) if mem_start is None else mem_start
    # [B, R, S] and [B, R, capacity]
    own = ((lo <= key) & (key < hi)).expand(batch, -1, -1)
    memory = (first[:, None, None] <= slot) & (slot < mem_len[:, None, None] + ghi)
    # What no row attends to may hold anything, NaN too.
    visible = [own.any(1)[..., None, None], memory.any(1)[..., None, None]]
    every_k = torch.cat([k.masked_fill(~visible[0], 0), mem_k.transpose(1, 2).masked_fill(~visible[1], 0)], 1)
    every_v = torch.cat([v.masked_fill(~visible[0], 0), mem_v.transpose(1, 2).masked_fill(~visible[1], 0)], 1)
    every_k, every_v = (t.repeat_interleave(heads // k.shape[2], 2) for t in (every_k, every_v))
    mask = torch.cat([own, memory], -1)[:, None]
    scores = torch.einsum("bqhd,bkhd->bhqk", q, every_k) * scale
    some = mask.any(-1, keepdim=True)
    scores = torch.where(some, scores.masked_fill(~mask, -torch.inf), 0.0)
    out = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1) * some, every_v)
    return out, scores.logsumexp(-1).where(some[..., 0], -torch.inf)
