"""compress_frames: the context token and the pooled content tokens of every frame, by the frame pass."""

from longreel.triton_kernels.adaptive_pool import adaptive_pool
from longreel.triton_kernels.frame_pass import frame_pass, frame_pass_signatures
from longreel.triton_kernels.launch import DTYPES, Signature
from longreel.triton_kernels.window import window
from torch import Tensor

__all__ = ["DTYPES", "aot_signatures", "compress_frames"]


def compress_frames(
    query: Tensor,
    patches: Tensor,
    query_mask: Tensor | None,
    scale: float,
    prefix: int,
    pitch: int,
    height: int,
    width: int,
    out_height: int,
    out_width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """query [P, Q, M, C], patches [F, N, C], any strides -> context [P, F, C], content [F, out_height * out_width, C],
    weights fp32 [P, F, N - prefix], lse fp32 [P, F, M]."""
    seen = patches[:, prefix:]
    prompts, _, queries, _ = query.shape
    if prompts * queries * patches.shape[0] * height * width * out_height * out_width == 0:
        content = adaptive_pool(patches, prefix, pitch, height, width, out_height, out_width)
        context, weights, lse = frame_pass(query, seen, query_mask, scale, None, None)
        return context, content, weights, lse
    view = window(pitch, height, width, out_height, out_width)
    content = patches.new_empty(patches.shape[0], out_height * out_width, patches.shape[2])
    context, weights, lse = frame_pass(query, seen, query_mask, scale, view, content)
    return context, content, weights, lse


def aot_signatures() -> list[Signature]:
    """256 tokens x 1408 channels to 4 x 4 cells, 32 queries, 16-byte aligned, in every dtype."""
    return frame_pass_signatures("compress_frames", pool=True)
