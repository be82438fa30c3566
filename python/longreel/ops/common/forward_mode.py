"""Kernels have no forward-mode derivative: a call below the public functions says so, where torch would drop the tangents."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor
from torch.autograd import forward_ad

from longreel import schemas


class Refusing:
    """The library of the ops as `torch.library.register_autograd` needs it; what it registers refuses tangents."""

    def impl(self, name: str, kernel: Callable[..., Any], key: str, **options: Any) -> None:
        @wraps(kernel)
        def checked(*args: Any, **kwargs: Any) -> Any:
            if forward_ad._current_level >= 0 and any(map(_moves, (*args, *kwargs.values()))):
                raise RuntimeError(
                    f"longreel::{name} has no forward-mode derivative; the public function has, with backend=None or 'reference'"
                )
            return kernel(*args, **kwargs)

        schemas.LIBRARY.impl(name, checked, key, **options)


REFUSING: Any = Refusing()


def _moves(value: Any) -> bool:
    return isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None
