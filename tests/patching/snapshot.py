"""A model as it stands, to the bit: what patching must leave behind."""

from typing import Any

import torch
from torch import nn

Snapshot = dict[str, Any]


def snapshot(model: nn.Module) -> Snapshot:
    """Classes, `__dict__` in its order, hooks, methods' functions and bytes of weights, module by module."""
    found: Snapshot = {"state": {key: bits(value) for key, value in model.state_dict().items()}}
    for path, module in model.named_modules():
        held = {key: tuple(value) if isinstance(value, dict) else id(value) for key, value in module.__dict__.items()}
        methods = ("forward", "get_video_features", "apply_pooling", "token_generation", "encode_multimodals")
        functions = [getattr(getattr(module, name, None), "__func__", None) for name in methods]
        found[path] = (type(module), list(held.items()), functions)
    return found


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest number of b."""
    return ((a - b).abs().max() / b.abs().max()).item()
