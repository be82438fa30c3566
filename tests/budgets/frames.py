"""What compress_frames and context_attention are compiled for: frames of 256 x 1408, a Q-Former's queries and a text
decoder's."""

import torch
from longreel.triton_kernels.common.launch import TRITON_NAMES
from torch import Tensor

FRAMES, TOKENS, CHANNELS = 3600, 256, 1408
# dtype and queries
KINDS = ((torch.float32, 32), (torch.float16, 32), (torch.bfloat16, 32), (torch.bfloat16, 128))


def label(dtype: torch.dtype, queries: int) -> str:
    return f"{TRITON_NAMES[dtype]}/{queries} queries"


def patches(dtype: torch.dtype, packed: bool = False) -> Tensor:
    shape = (FRAMES * TOKENS, CHANNELS) if packed else (FRAMES, TOKENS, CHANNELS)
    return torch.empty(shape, dtype=dtype, device="meta")


def query(dtype: torch.dtype, queries: int, prompts: int = 1) -> Tensor:
    return torch.empty(prompts, 1, queries, CHANNELS, dtype=dtype, device="meta")


def floats(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")
