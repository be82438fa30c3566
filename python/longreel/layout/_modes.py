"""Plans are made of ordinary tensors, whatever mode is on while they are made, and used under whatever mode is on then."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._C import DisableTorchFunction, _len_torch_dispatch_stack
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Tensors made inside are neither inference tensors nor fake, wrapped, traced, or on another mode's device: they are kept
    by value, and the next call may run under any mode."""
    with (
        torch.inference_mode(False),
        temporarily_clear_interpreter_stack(),
        _disable_current_modes(),
        DisableTorchFunction(),
    ):
        yield


def fake_mode(like: Any) -> Any:
    """The fake tensor mode that a call with the tensor `like` runs under; None: none."""
    if not isinstance(like, FakeTensor) and not _len_torch_dispatch_stack():
        return None
    return detect_fake_mode(like)
