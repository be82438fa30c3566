"""qformer_attention by its definition: keys and values projected from x, heads, a softmax over the keys."""

import torch
from torch import Tensor


def qformer_attention(
    query: Tensor,
    x: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    b_v: Tensor | None,
    key_mask: Tensor | None,
    frame_table: Tensor | None,
    frame_size: int,
    num_heads: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """query [B|1, Nq, H*D], x [B, S, C], w_k and w_v [H*D, C] -> out [B, Nq, H*D], lse [B, H, Nq]; computed in their dtype.

    frame_table [T, C] is added to every key of its frame, S = T * frame_size. Masked keys may hold anything. A sample without a
    key gives 0, lse -inf, and zero gradient. lse has no gradient.
    """
    visible = x.new_ones(x.shape[:2], dtype=torch.bool) if key_mask is None else key_mask
    if key_mask is not None:
        x = x.masked_fill(~visible[..., None], 0)
    if frame_table is not None:
        x = x + frame_table.repeat_interleave(frame_size, 0)
    # [B, H, *, D]
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (query, x @ w_k.mT, x @ w_v.mT))
    if b_v is not None:
        v = v + b_v.view(num_heads, 1, -1)
    # A sample without keys takes a softmax over zeros that `some` removes: no NaN, no gradient. [B, 1, 1, 1], [B, 1, 1, S]
    some, mask = visible.any(-1)[:, None, None, None], visible[:, None, None]
    scores = torch.where(some, (scale * q @ k.mT).masked_fill(~mask, -torch.inf), 0.0)
    out = (scores.softmax(-1) * some) @ v
    lse = scores.detach().logsumexp(-1).where(some[..., 0], -torch.inf)
    return out.transpose(1, 2).flatten(2), lse
