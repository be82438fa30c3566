"""Few queries over very many keys in plain PyTorch: projected and absorbed, each without gradients and for autograd.

query [B, Nq, H*D], x [B, S, C], w_k and w_v [H*D, C], b_v [H*D] -> [B, Nq, H*D].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.bench.one_dnn import linear
from longreel.bench.peers import chunk

# Keys a chunk on a CPU: with their scores they stay in its caches. With autograd a chunk costs bookkeeping: longer ones.
_STEP = 1024
_STEP_AUTOGRAD = 8192


def _split(rows: Tensor, heads: int) -> Tensor:
    """[B, R, H*D] -> [B, H, R, D]"""
    return rows.unflatten(-1, (heads, -1)).transpose(1, 2)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    q, k, v = (_split(t, heads) for t in (query, key, value))
    mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(1, 2).flatten(2)


def projections_sdpa(query: Tensor, x: Tensor, w_k: Tensor, w_v: Tensor, b_v: Tensor, *, num_heads: int) -> Tensor:
    return _sdpa(query, linear(x, w_k), linear(x, w_v) + b_v, num_heads)


def projections_training(query: Tensor, x: Tensor, w_k: Tensor, w_v: Tensor, b_v: Tensor, *, num_heads: int) -> Tensor:
    return _sdpa(query, F.linear(x, w_k), F.linear(x, w_v, b_v), num_heads)


def _absorb(query: Tensor, w_k: Tensor, heads: int) -> Tensor:
    """[B, H * Nq, C] in the dtype of the query, the scale inside."""
    q = _split(query, heads).float()
    depth = q.shape[-1]
    return (
        (torch.einsum("bhnd,hdc->bhnc", q, w_k.unflatten(0, (heads, -1)).float()) * depth**-0.5)
        .flatten(1, 2)
        .to(query.dtype)
    )


def _finish(mean: Tensor, w_v: Tensor, b_v: Tensor, heads: int) -> Tensor:
    """[B, H * Nq, C] -> [B, Nq, H*D]"""
    y = torch.einsum("bhnc,hdc->bhnd", mean.unflatten(1, (heads, -1)), w_v.unflatten(0, (heads, -1)).float())
    return (y.transpose(1, 2).flatten(2) + b_v.float()).to(w_v.dtype)


def absorbed_chunked(query: Tensor, x: Tensor, w_k: Tensor, w_v: Tensor, b_v: Tensor, *, num_heads: int) -> Tensor:
    absorbed = _absorb(query, w_k, num_heads)
    step = chunk(x, _STEP) if x.device.type == "cpu" else max(1, x.shape[1])
    means = [_online(rows, keys, step) for rows, keys in zip(absorbed, x, strict=True)]
    return _finish(torch.stack(means), w_v, b_v, num_heads)


def _online(rows: Tensor, x: Tensor, step: int) -> Tensor:
    """rows [R, C] over x [S, C] -> [R, C]"""
    m_i, l_i = rows.new_full((len(rows),), -1e30, dtype=torch.float32), rows.new_zeros(len(rows), dtype=torch.float32)
    acc = rows.new_zeros(rows.shape, dtype=torch.float32)
    for begin in range(0, len(x), step):
        keys = x[begin : begin + step]
        scores = linear(keys, rows).float()
        m_new = torch.maximum(m_i, scores.amax(0))
        p, alpha = torch.exp(scores - m_new), torch.exp(m_i - m_new)
        l_i, m_i = l_i * alpha + p.sum(0), m_new
        acc = acc * alpha[:, None] + (p.to(x.dtype).T @ keys).float()
    return acc / l_i[:, None]


def absorbed_training(query: Tensor, x: Tensor, w_k: Tensor, w_v: Tensor, b_v: Tensor, *, num_heads: int) -> Tensor:
    """What autograd follows: chunks of scores, one softmax over them, chunks of sums."""
    absorbed = _absorb(query, w_k, num_heads)
    step = _STEP_AUTOGRAD if x.device.type == "cpu" else max(1, x.shape[1])
    parts = x.split(step, 1)
    scores = torch.cat([part @ absorbed.mT for part in parts], 1)
    weights = scores.float().softmax(1).to(x.dtype).split([part.shape[1] for part in parts], 1)
    mean = sum((w.mT @ part).float() for w, part in zip(weights, parts, strict=True))
    return _finish(mean, w_v, b_v, num_heads)
