"""Calling a low-level op, and registering what stands beside its kernels."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from longreel.schemas import KERNEL_BACKENDS, LIBRARY, overload


def wants_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def call(name: str, backend: str, *args: Any) -> Any:
    """Run `longreel::name.backend`. Where no gradient is wanted, Python's autograd kernel (about 5 us) is stepped over."""
    op = overload(name, backend)
    if torch.compiler.is_compiling() or wants_grad(*(a for a in args if isinstance(a, Tensor))):
        return op(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def register(
    name: str, fake: Callable[..., Any], fake_backward: Callable[..., Any], **autograd: Callable[..., Any]
) -> None:
    """Fakes, autograd (`setup_context`, and `backward(backend)` that makes one) and Triton kernels of one op, every backend."""
    for backend in KERNEL_BACKENDS:
        torch.library.register_fake(f"longreel::{name}.{backend}", fake, lib=LIBRARY)
        torch.library.register_fake(f"longreel::{name}_backward.{backend}", fake_backward, lib=LIBRARY)
        torch.library.register_autograd(
            f"longreel::{name}.{backend}",
            autograd["backward"](backend),
            setup_context=autograd["setup_context"],
            lib=LIBRARY,
        )
        torch.library.register_autograd(f"longreel::{name}_backward.{backend}", _no_double_backward(name), lib=LIBRARY)
    for op in (name, f"{name}_backward"):
        LIBRARY.impl(f"{op}.triton", _triton(name, op), "CUDA")
        LIBRARY.impl(f"{op}.triton", _triton(name, op), "CPU")


def _no_double_backward(name: str) -> Callable[..., Any]:
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(f"{name} has no second derivative on this backend; backend='reference' has")

    return backward


def _triton(name: str, op: str) -> Callable[..., Any]:
    """The host function of triton_kernels/<name>.py, imported at the first call."""

    def run(*args: Any) -> Any:
        return getattr(importlib.import_module(f"longreel.triton_kernels.{name}"), op)(*args)

    return run
