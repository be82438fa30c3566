"""block_sparse_attention by its definition: a softmax over two key ranges per row, through a dense mask (small sizes)."""

import torch
from torch import Tensor

LIMIT = 1 << 28


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    global_k: Tensor | None,
    global_v: Tensor | None,
    bounds: Tensor,
    global_index: Tensor,
    start: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """q [B, Sq, H, D], k and v [B, Sk, Hkv, D] -> out [B, Sq, H, D], lse [B, H, Sq] (natural log); computed in their dtype.

    bounds [B, Sq, 4] is lo, hi, glo, ghi: the row attends to K[lo : hi) and G[glo : ghi), without keys before start [B]; [B,
    Sq, 2] is lo and hi where there is no G. Key g of G is global_k[:, g], by default key global_index[b, g] of k, v (-1
    pads). Layout tensors of one sample serve any batch. A row that attends to nothing gives 0, lse -inf, and zero gradient.
    Head h reads key head h // (H / Hkv).
    """
    batch, queries, heads, _ = q.shape
    elements = batch * heads * queries * (k.shape[1] + global_index.shape[1])
    if elements > LIMIT:
        raise ValueError(f"block_sparse_attention: the reference would hold {elements} scores, it stops at {LIMIT}")
    # [B, 1, Sq, Sk + G]
    mask = visible(k.shape[1], bounds, global_index, start)[:, None]
    # [B, G, Hkv, D]
    at = global_index.long().clamp(min=0)[..., None, None].expand(batch, -1, *k.shape[2:])
    global_k = k.gather(1, at) if global_k is None else global_k
    global_v = v.gather(1, at) if global_v is None else global_v
    # Rows that attend to nothing and keys that no row attends to may hold anything, NaN too.
    q = q.masked_fill(~mask[:, 0].any(2)[..., None, None], 0)
    local_visible, global_visible = mask[:, 0].any(1)[..., None, None].split([k.shape[1], global_k.shape[1]], 1)
    k, v = (t.masked_fill(~local_visible, 0) for t in (k, v))
    global_k, global_v = (t.masked_fill(~global_visible, 0) for t in (global_k, global_v))
    # [B, keys, H, D] each
    k, v, global_k, global_v = (t.repeat_interleave(heads // k.shape[2], 2) for t in (k, v, global_k, global_v))
    # [B, H, Sq, Sk + G]
    scores = torch.cat([torch.einsum("bqhd,bkhd->bhqk", q, keys) for keys in (k, global_k)], -1) * scale
    # A row without keys takes a softmax over zeros that `some` removes: no NaN, no gradient.
    some = mask.any(-1, keepdim=True)
    scores = torch.where(some, scores.masked_fill(~mask, -torch.inf), 0.0)
    local, global_ = (scores.softmax(-1) * some).split([k.shape[1], global_k.shape[1]], -1)
    out = torch.einsum("bhqk,bkhd->bqhd", local, v) + torch.einsum("bhqk,bkhd->bqhd", global_, global_v)
    return out, scores.logsumexp(-1).where(some[..., 0], -torch.inf)


def visible(keys: int, bounds: Tensor, global_index: Tensor, start: Tensor) -> Tensor:
    """bool [B, Sq, keys + G]: what every row attends to of K, then of G."""
    if bounds.shape[2] == 2:
        bounds = torch.nn.functional.pad(bounds, (0, 2))
    # [B, Sq, 1] each
    lo, hi, glo, ghi = bounds.unsqueeze(-1).unbind(2)
    key = torch.arange(keys, device=bounds.device)
    place = torch.arange(global_index.shape[1], device=bounds.device)
    first = start[:, None, None]
    local = (lo <= key) & (key < hi) & (key >= first)
    global_ = (glo <= place) & (place < ghi) & (global_index[:, None] >= first)
    batch = max(local.shape[0], global_.shape[0])
    return torch.cat([local.expand(batch, -1, -1), global_.expand(batch, -1, -1)], -1)
