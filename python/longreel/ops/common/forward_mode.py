"""Transforms of torch: kernels have no forward-mode derivative, and say so where torch would drop the tangents; in-place ops."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
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


@contextmanager
def transformed_in_place(name: str, changed: Sequence[str]) -> Iterator[None]:
    """Of an op that changes arguments in place: what a transform does not allow of that is said in one line."""
    try:
        yield
    except RuntimeError as error:
        if not changed or not (torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0):
            raise
        raise RuntimeError(
            f"{name} changes {', '.join(changed)} in place, which this transform of torch does not allow here: give them to the"
            " function that is transformed as arguments, batched under vmap"
        ) from error


def _moves(value: Any) -> bool:
    return isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None
