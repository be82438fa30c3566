"""Why a kernel that was written for Hopper does not take a call."""

import torch
from torch import Tensor

CLUSTER_CHANNELS, CLUSTER_ROWS = 2816, 64
GLUON_HEADS = (64, 128)


def refused_card(tensor: Tensor, *majors: int) -> str | None:
    """Unless the card of `tensor` has a compute capability of one of these major numbers."""
    if not tensor.is_cuda:
        return None
    found = torch.cuda.get_device_capability(tensor.device)
    if found[0] in majors:
        return None
    return f"runs on compute capability {' and '.join(f'{major}.0' for major in majors)}, the card has {found[0]}.{found[1]}"


def refused_by_clusters(query: Tensor, patches: Tensor) -> str | None:
    """Of low-level queries [P, Q, M, C] and patches [F, N, C] or [total, C]."""
    wrong_card = refused_card(patches, 9, 10)
    if wrong_card is not None:
        return wrong_card
    rows, channels = query.shape[2], patches.shape[-1]
    if rows > CLUSTER_ROWS:
        return f"takes up to {CLUSTER_ROWS} query rows a prompt, given {rows}"
    if channels > CLUSTER_CHANNELS:
        return f"takes up to {CLUSTER_CHANNELS} channels, given {channels}"
    frames = patches.shape[0] > 1 and patches.dim() == 3
    strides = (patches.stride(-2), patches.stride(0) if frames else 0, channels)
    if patches.stride(-1) != 1 or any(stride % 8 for stride in strides) or patches.storage_offset() % 8:
        return "takes patches whose rows are whole 16 bytes at addresses that are multiples of 16"
    return None


def refused_by_gluon(tensors: tuple[Tensor, ...]) -> str | None:
    """Of q, k, v, and the global keys and values where they are given: [B, rows, H, D]."""
    wrong_card = refused_card(tensors[0], 9)
    if wrong_card is not None:
        return wrong_card
    head = tensors[0].shape[-1]
    if head not in GLUON_HEADS:
        return f"takes heads of {' and '.join(map(str, GLUON_HEADS))}, given {head}"
    for tensor in tensors:
        if tensor.stride(-1) != 1 or any(step % 8 for step in tensor.stride()[:-1]) or tensor.storage_offset() % 8:
            return "takes heads that are whole 16 bytes at addresses that are multiples of 16"
    return None
