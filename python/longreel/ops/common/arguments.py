"""What an argument may be: each check raises one line that names the argument, says what was given and what is allowed."""

import math
import numbers
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_PLAIN = (Tensor, Parameter)
ALLOWED_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_tensors(**tensors: Any) -> None:
    """Plain dense tensors of a dtype that the ops compute in."""
    for name, tensor in tensors.items():
        check_dense(name, tensor)
        if tensor.dtype not in ALLOWED_DTYPES:
            raise TypeError(f"{name} is {tensor.dtype}; allowed: float32, bfloat16, float16 (float64 on the reference)")


def check_dense(name: str, tensor: Any) -> None:
    """A plain dense tensor."""
    if type(tensor) in _PLAIN and tensor.layout is torch.strided and not tensor.is_nested:
        return
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is {given(tensor)}; allowed: a torch.Tensor")
    if tensor.is_nested or tensor.layout is not torch.strided:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise TypeError(f"{name} is a {kind} tensor; allowed: a dense one (of the torch.strided layout)")
    if is_traceable_wrapper_subclass(tensor):
        raise TypeError(
            f"{name} is a {type(tensor).__name__}; allowed: a plain torch.Tensor, as a DTensor's to_local() is"
        )


def number(name: str, value: Any) -> float:
    """A finite real number, numpy's too; no tensor, whose gradient would be lost."""
    known = isinstance(value, (float, int, torch.SymFloat, torch.SymInt, numbers.Real))
    if not known or isinstance(value, bool):
        raise TypeError(f"{name} is {given(value)}; allowed: a number, or None")
    try:
        if torch.compiler.is_compiling() or math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise ValueError(f"{name} is {given(value)}; allowed: a finite number, or None")


def given(value: Any) -> str:
    """A value in a message: as it is written where that is short, else what it is."""
    if isinstance(value, str | int | float) and len(str(value)) < 40:
        return repr(value)
    return f"a {type(value).__name__}"
