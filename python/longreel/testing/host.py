"""Whether code waits for the host: a mode under which it may not."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal.", "masked_select", "unique")


class NoHost(TorchDispatchMode):
    """Inside, an operation that reads numbers on the host, has a shape that depends on them, or copies to another device fails:
    what a CUDA stream would have to be waited for. Works on tensors of any device.

    Raises:
        RuntimeError: there is one.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.name(), kwargs or {}
        if any(read in name for read in READS) or ("_to_copy" in name and kwargs.get("device") is not None):
            raise RuntimeError(f"{name} waits for the host")
        return func(*args, **kwargs)
