"""A kernel's launches bound once: what Triton asks of the host anew each time is kept for calls that cost little themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

_bound = True


@contextmanager
def every_launch_by_triton() -> Iterator[None]:
    """Whoever watches Triton's own launches gets all of them meanwhile."""
    global _bound
    before, _bound = _bound, False
    try:
        yield
    finally:
        _bound = before


class Bound:
    """A kernel with its constants and options, whose launches are bound once: Triton's own take 15 to 40 us of the host each
    time, most of it to ask what is the same as before.

    Besides constants Triton compiles for a device and for what `kinds` says of the other arguments; what it made of these, under
    a driver, is launched again as it is.
    """

    def __init__(self, kernel: Any, **constants: Any) -> None:
        self.kernel, self.constants = kernel, constants
        self._made: dict[Any, Any] = {}
        self._behind = tuple(constants[name] for name in kernel.arg_names if name in constants)

    def __call__(self, programs: int, *args: Any) -> None:
        """`programs` of the kernel, whose first parameters are `args`: tensors, numbers, None, and tuples of these."""
        kernel = self.kernel
        if not _bound or not isinstance(kernel, JITFunction) or kernel.pre_run_hooks:
            kernel[(programs,)](*args, **self.constants)
            return
        active = driver.active
        key = (active, active.get_current_device(), *kinds(args))
        compiled = self._made.get(key)
        if compiled is None:
            compiled = kernel[(programs,)](*args, **self.constants)
            if isinstance(compiled, CompiledKernel):
                self._made[key] = compiled
        else:
            compiled[(programs, 1, 1)](*args, *self._behind)


def kinds(args: tuple[Any, ...]) -> list[Any]:
    """What Triton compiles for of arguments that are no constants: dtypes, addresses that are multiples of 16 bytes, integers
    that are 1, multiples of 16, or wider than 32 bits. Finer than Triton where an argument is not specialised on."""
    found: list[Any] = []
    for arg in args:
        if isinstance(arg, tuple):
            found += arg
        else:
            found.append(arg)
    for i, arg in enumerate(found):
        kind = type(arg)
        if kind is int:
            found[i] = 1 if arg == 1 else (arg % 16 == 0, -(2**31) <= arg < 2**31, arg < 2**63)
        elif isinstance(arg, Tensor):
            found[i] = (arg.dtype, arg.data_ptr() % 16 == 0)
        elif kind is float or arg is None:
            found[i] = kind
        else:
            raise TypeError(f"an argument of a kernel is a {kind.__name__}; allowed: tensors, numbers, None")
    return found
