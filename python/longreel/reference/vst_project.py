"""vst_project by its definition: queries, keys and values of rows grouped [raw | VST], each group by weights of its own."""

import torch
import torch.nn.functional as F
from torch import Tensor


def vst_project(
    x: Tensor,
    n_raw: int,
    w_raw: Tensor,
    b_raw: Tensor | None,
    w_vst: Tensor,
    b_vst: Tensor | None,
    heads: int,
    kv_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """x [B, R, E], weights [(H + 2 Hkv) D, E] whose rows are those of q, k, v -> q [B, R, H, D], k and v [B, R, Hkv, D]."""
    rows = torch.cat([F.linear(x[:, :n_raw], w_raw, b_raw), F.linear(x[:, n_raw:], w_vst, b_vst)], 1)
    # [B, R, H + 2 Hkv, D]
    every = rows.unflatten(-1, (heads + 2 * kv_heads, -1))
    q, k, v = every.split([heads, kv_heads, kv_heads], 2)
    return q, k, v
