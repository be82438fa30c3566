"""Functions that torch.compile leaves alone."""

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def host_only(reason: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """As torch.compiler.disable, but torch._dynamo, half the time of `import longreel`, waits until somebody compiles."""

    def decorate(fn: Callable[P, T]) -> Callable[P, T]:
        disabled: Any = torch._disable_dynamo(fn)  # type: ignore[attr-defined]
        # What dynamo reads for its message.
        disabled._torchdynamo_disable, disabled._torchdynamo_disable_msg = True, reason

        @functools.wraps(fn)
        def outer(*args: P.args, **kwargs: P.kwargs) -> T:
            if not torch.compiler.is_dynamo_compiling() and "torch._dynamo" not in sys.modules:
                return fn(*args, **kwargs)
            out: T = disabled(*args, **kwargs)
            return out

        return outer

    return decorate
