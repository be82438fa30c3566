"""What compress_frames and context_attention are compiled for: frames of 256 x 1408, a Q-Former's queries and a text
decoder's."""

import torch
from cards import EVERY, LARGE
from longreel.triton_kernels.common.card import Card
from longreel.triton_kernels.common.launch import TRITON_NAMES
from torch import Tensor

FRAMES, TOKENS, CHANNELS = 3600, 256, 1408
# dtype, queries, card; a large one has more stages in flight
KINDS = (
    (torch.float32, 32, EVERY),
    (torch.float32, 32, LARGE),
    (torch.float16, 32, LARGE),
    (torch.bfloat16, 32, EVERY),
    (torch.bfloat16, 32, LARGE),
    (torch.bfloat16, 128, EVERY),
    (torch.bfloat16, 128, LARGE),
)


def label(dtype: torch.dtype, queries: int, card: Card) -> str:
    return f"{TRITON_NAMES[dtype]}/{queries} queries/{'large' if card is LARGE else 'every'} card"


def patches(dtype: torch.dtype, packed: bool = False) -> Tensor:
    shape = (FRAMES * TOKENS, CHANNELS) if packed else (FRAMES, TOKENS, CHANNELS)
    return torch.empty(shape, dtype=dtype, device="meta")


def query(dtype: torch.dtype, queries: int, prompts: int = 1) -> Tensor:
    return torch.empty(prompts, 1, queries, CHANNELS, dtype=dtype, device="meta")


def floats(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")
