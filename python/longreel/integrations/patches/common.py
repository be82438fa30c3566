"""What the rows ask of a module and of a call."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from longreel.backends import available
from longreel.integrations.patching.replacement import Aside, Replacement
from longreel.nn.linear import is_matrix, said, untouched


def not_matrix(**linears: nn.Module) -> str | None:
    """Why one of them cannot be read as its weight and bias."""
    for name, linear in linears.items():
        if not is_matrix(linear):
            foreign = type(linear) is not nn.Linear and type(linear).__name__ == "Linear"
            kind = f"{type(linear).__module__.split('.')[0]}'s Linear" if foreign else f"a {said(linear)}"
            return f"{name} is {kind}, whose weight is not all that it computes"
    return None


def no_kernel(op: str, backend: str | None, tensor: Tensor) -> str | None:
    """Why `op` would be no faster for a tensor like this one: only the reference takes it, and nobody named it."""
    device, dtype = tensor.device.type, _dtype(tensor)
    if backend is not None or device == "meta" or available(op, device, dtype)[:1] != ["reference"]:
        return None
    return f"no kernel of {op} for {str(dtype).removeprefix('torch.')} on {device}"


def _dtype(tensor: Tensor) -> torch.dtype:
    device = tensor.device.type
    narrowed = device != "meta" and tensor.dtype is not torch.float64 and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if narrowed else tensor.dtype


def aside(*reasons: str | None) -> Aside | None:
    """The first reason there is."""
    why = next((reason for reason in reasons if reason is not None), None)
    return None if why is None else Aside(why)


def hooked(**modules: Any) -> str | None:
    """Why modules that are gone past, or that give something else than they would, must be called as they are."""
    for name, module in modules.items():
        ours = isinstance(module.__dict__.get("forward"), Replacement)
        if not (untouched(module) if not ours else not _listened(module)):
            return f"{name} has a hook or a forward of its own"
    return None


def _listened(module: nn.Module) -> bool:
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return any(hooks) or _has_any_global_hook()
