"""longreel: custom kernels for long-video vision-language models, as PyTorch ops."""

import torch as _torch

if tuple(int(part) for part in _torch.__version__.split("+")[0].split(".")[:2]) < (2, 10):
    raise ImportError(
        f"longreel needs torch 2.10 or newer, this environment has {_torch.__version__}: upgrade torch first"
    )

from longreel._explain import Explanation, explain
from longreel._version import __version__
from longreel.backends import BackendError
from longreel.compression.prompt import CompressedInputs
from longreel.compression.video import compress_video
from longreel.integrations.lazy import register as _register
from longreel.integrations.patching import (
    PatchReport,
    patch,
    register_patch_mapping,
    unpatch,
    unregister_patch_mapping,
)
from longreel.layout import PlannedLayout, VideoLayout
from longreel.layout.context import use_layout
from longreel.ops import *  # noqa: F403, every op's public function
from longreel.ops import __all__ as _ops
from longreel.rotary import rotary_tables

__all__ = [
    "BackendError",
    "CompressedInputs",
    "Explanation",
    "PatchReport",
    "PlannedLayout",
    "VideoLayout",
    "__version__",
    "compress_video",
    "explain",
    "patch",
    "register_patch_mapping",
    "rotary_tables",
    "unpatch",
    "unregister_patch_mapping",
    "use_layout",
]
__all__ += _ops

# attn_implementation="longreel", now or when transformers is imported.
_register()
