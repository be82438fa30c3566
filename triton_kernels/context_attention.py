"""context_attention: the context token of every frame, by the frame pass without pooling."""

from longreel.triton_kernels.frame_pass import frame_pass, frame_pass_signatures
from longreel.triton_kernels.launch import DTYPES, Signature
from torch import Tensor

__all__ = ["DTYPES", "aot_signatures", "context_attention"]


def context_attention(
    query: Tensor, patches: Tensor, query_mask: Tensor | None, cu_seqlens: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """query [P, Q, M, C], patches [F, N, C], any strides -> context [P, F, C], fp32 weights [P, F, N], lse [P, F, M].

    Raises NotImplementedError for packed patches: the work of a pass is laid out before the frames' lengths are known.
    """
    if cu_seqlens is not None:
        raise NotImplementedError("context_attention: backend 'triton' does not take packed patches (cu_seqlens)")
    return frame_pass(query, patches, query_mask, scale, None, None)


def aot_signatures() -> list[Signature]:
    """256 tokens x 1408 channels, 32 queries, 16-byte aligned, in every dtype."""
    return frame_pass_signatures("context_attention", pool=False)
