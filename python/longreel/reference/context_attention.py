"""context_attention, as the LLaMA-VID paper writes it: E_f = mean_m softmax_n(scale q_m . x_n) X_f."""

import torch
from torch import Tensor


def context_attention(
    query: Tensor, patches: Tensor, query_mask: Tensor | None, cu_seqlens: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """query [P, Q, M, C] (Q is 1 or F), patches [F, N, C] or packed [total, C] -> context [P, F, C], weights [P, F, N]
    or [P, total], lse [P, F, M]; computed in the dtype of the inputs."""
    if cu_seqlens is not None:
        return _packed(query, patches, query_mask, cu_seqlens, scale)
    # [P, F, M, N]
    scores = torch.matmul(query, patches.transpose(-1, -2)) * scale
    valid = query.new_ones(query.shape[:-1], dtype=torch.bool) if query_mask is None else query_mask
    valid = valid.expand(scores.shape[:-1])
    # [P, F, N]
    weights = (scores.softmax(-1) * row_share(valid, scores.dtype)[..., None]).sum(-2)
    # [P, F, C]
    context = torch.matmul(weights[..., None, :], patches)[..., 0, :]
    lse = scores.detach().logsumexp(-1).masked_fill(~valid, -torch.inf)
    return context, weights, lse


def row_share(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """valid [..., M] -> a_m = 1 / (number of valid rows), 0 for an invalid row."""
    return valid.to(dtype) / valid.sum(-1, keepdim=True).clamp(min=1)


def _packed(
    query: Tensor, patches: Tensor, query_mask: Tensor | None, cu_seqlens: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    prompts, sets, m, _ = query.shape
    total, frames = patches.shape[0], cu_seqlens.shape[0] - 1
    lengths = cu_seqlens.diff()
    # [total], the frame of every patch
    frame = torch.repeat_interleave(torch.arange(frames, device=patches.device), lengths, output_size=total)
    rows = query[:, frame] if sets == frames and sets != 1 else query.expand(-1, total, -1, -1)
    # [P, total, M]
    scores = torch.einsum("ptmc,tc->ptm", rows, patches) * scale
    index = frame[None, :, None].expand_as(scores)
    top = scores.new_full((prompts, frames, m), -torch.inf).scatter_reduce(1, index, scores.detach(), "amax")
    exp = (scores - top[:, frame]).exp()
    # [P, F, M]
    denominator = exp.new_zeros(prompts, frames, m).index_add(1, frame, exp)
    valid = query.new_ones(query.shape[:-1], dtype=torch.bool) if query_mask is None else query_mask
    valid = valid.expand(prompts, frames, m)
    # [P, total]
    weights = (exp / denominator[:, frame] * row_share(valid, exp.dtype)[:, frame]).sum(-1)
    context = patches.new_zeros(prompts, frames, patches.shape[1]).index_add(1, frame, weights[..., None] * patches)
    lse = (top + denominator.detach().log()).masked_fill(~valid, -torch.inf)
    return context, weights, lse.masked_fill(lengths[:, None] == 0, -torch.inf)
