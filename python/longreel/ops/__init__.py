"""The ops' public functions. Beside each, in `_<op>.py`: its checks, fake implementation, autograd and cost."""

from longreel.ops._adaptive_pool import adaptive_pool
from longreel.ops._block_sparse_attention import block_sparse_attention
from longreel.ops._compress_frames import CompressedFrames, compress_frames
from longreel.ops._context_attention import context_attention
from longreel.ops._qformer_attention import qformer_attention
from longreel.ops._token_density import TokenDensity, token_density
from longreel.ops._token_scores import TokenScores, token_scores
from longreel.ops._vst_append_ import vst_append_
from longreel.ops._vst_attention import vst_attention
from longreel.ops._vst_project import vst_project
from longreel.ops._vst_rotate import vst_rotate

__all__ = [
    "CompressedFrames",
    "TokenDensity",
    "TokenScores",
    "adaptive_pool",
    "block_sparse_attention",
    "compress_frames",
    "context_attention",
    "qformer_attention",
    "token_density",
    "token_scores",
    "vst_append_",
    "vst_attention",
    "vst_project",
    "vst_rotate",
]
