"""longreel: custom kernels for long-video vision-language models, as PyTorch ops."""

import torch as _torch

if tuple(int(part) for part in _torch.__version__.split("+")[0].split(".")[:2]) < (2, 10):
    raise ImportError(
        f"longreel needs torch 2.10 or newer, this environment has {_torch.__version__}: upgrade torch first"
    )

from longreel._explain import Explanation, explain
from longreel._version import __version__
from longreel.backends import BackendError
from longreel.integrations.lazy import register as _register
from longreel.layout import PlannedLayout, VideoLayout
from longreel.layout.context import use_layout
from longreel.ops._adaptive_pool import adaptive_pool
from longreel.ops._block_sparse_attention import block_sparse_attention
from longreel.ops._compress_frames import CompressedFrames, compress_frames
from longreel.ops._context_attention import context_attention
from longreel.ops._qformer_attention import qformer_attention
from longreel.ops._vst_append_ import vst_append_
from longreel.ops._vst_attention import vst_attention
from longreel.ops._vst_project import vst_project
from longreel.ops._vst_rotate import vst_rotate
from longreel.rotary import rotary_tables

__all__ = [
    "BackendError",
    "CompressedFrames",
    "Explanation",
    "PlannedLayout",
    "VideoLayout",
    "__version__",
    "adaptive_pool",
    "block_sparse_attention",
    "compress_frames",
    "context_attention",
    "explain",
    "qformer_attention",
    "rotary_tables",
    "use_layout",
    "vst_append_",
    "vst_attention",
    "vst_project",
    "vst_rotate",
]

# attn_implementation="longreel", now or when transformers is imported.
_register()
