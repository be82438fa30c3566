"""compress_frames: the context token and the pooled content tokens of every frame (LLaMA-VID's two tokens)."""

from torch import Tensor

from longreel.reference.adaptive_pool import adaptive_pool
from longreel.reference.context_attention import context_attention
from longreel.reference.pool_geometry import PoolGeometry


def compress_frames(
    query: Tensor, patches: Tensor, query_mask: Tensor | None, scale: float, geometry: PoolGeometry
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> context [P, F, C], content [F, cells, C], weights [P, F, N - prefix], lse [P, F, M]; in the input's dtype."""
    context, weights, lse = context_attention(query, patches[:, geometry.prefix :], query_mask, None, scale)
    return context, adaptive_pool(patches, geometry), weights, lse
