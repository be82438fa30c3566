"""When a module's weights say all that calling it does, and when it must be called."""

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.module import _has_any_global_hook

_TENSORS = (Tensor, nn.Parameter, FakeTensor)


def changed(module: nn.Module) -> bool:
    """It has a hook, or a forward that is not its class's: what would not act where it is never called."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return any(hooks) or "forward" in module.__dict__


def untouched(module: nn.Module) -> bool:
    """No hook on it or on all modules, and its class's own forward: going past its call, to its parts, computes the same."""
    return not (changed(module) or _has_any_global_hook())


def is_matrix(module: nn.Module) -> bool:
    """Calling it is ``x W^T + b`` with its weight and bias as they stand.

    That holds for torch's own Linear alone: adapters (LoRA), quantised, parametrised and sharded ones are other classes or
    have other tensors in them, and hooks (pruning, weight_norm, offloading) act when it is called.

    Raises:
        ValueError: its weight is no matrix now, as where it is sharded and not gathered.
    """
    if type(module) is not nn.Linear or not untouched(module):
        return False
    if any(type(tensor) not in _TENSORS for tensor in (module.weight, module.bias) if tensor is not None):
        return False
    if module.weight.dim() != 2:
        raise ValueError(
            f"a Linear's weight must be [out, in], given {list(module.weight.shape)}: a sharded one is to be gathered first"
        )
    return True


def said(module: nn.Module) -> str:
    """For an error: what stands in a Linear's place."""
    name = type(module).__name__
    return name if type(module) is not nn.Linear else f"{name} with hooks, a forward or a tensor of another kind"


def product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """``scale * left @ right`` [R, K] x [K, S], summed in float32 or wider and rounded once."""
    return torch.addmm(left.new_zeros(1), left, right, beta=0, alpha=scale)
