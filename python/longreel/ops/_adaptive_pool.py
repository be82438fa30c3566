"""adaptive_pool: the patches of a frame averaged down to a few content tokens."""

from typing import Any

import torch
from torch import Tensor

from longreel.backends import Request, choose
from longreel.ops.common.call import call, register
from longreel.ops.common.cost import Cost
from longreel.ops.common.queries import autocast, check_dtype
from longreel.reference.adaptive_pool import adaptive_pool as reference
from longreel.reference.pool_geometry import PoolGeometry, pool_geometry
from longreel.schemas import overload as low_level

NAME = "adaptive_pool"


def adaptive_pool(
    patches: Tensor,
    output_size: int | tuple[int, int] | None = None,
    *,
    mode: str = "adaptive",
    grid: tuple[int, int] | None = None,
    num_prefix_tokens: int = 0,
    backend: str | None = None,
) -> Tensor:
    """Content tokens of every frame: the patch grid averaged down to `output_size`.

    LLaMA-VID (arXiv 2311.17043), section 3.1: the adaptive pooling that makes n content tokens of N patches.

    Args:
        patches: ``[F, N, C]``, float32, bfloat16 or float16 (float64 on the reference), any strides.
        output_size: n cells a side, or (rows, columns). Unused by modes "mean" and "none".
        mode: "adaptive", PyTorch's adaptive average pooling, any output size; "grid", LLaMA-VID's released rule "grid:g"
            with g = `output_size` (kernel = stride = side // g, so side // kernel cells a side: 8 for g = 6 on a side of 16,
            and rows beyond kernel * cells dropped); "mean", one token; "none", all N patches.
        grid: (height, width) of the patches after the prefix; None is their square.
        num_prefix_tokens: leading tokens (CLS) that are not part of the grid.
        backend: None chooses (see `longreel.explain`); a name that cannot run raises BackendError.

    Returns:
        ``[F, n, C]`` in the input's dtype, row-major over the cells; accumulated in float32, rounded once.

    Raises:
        ValueError, TypeError: a grid, size or mode that does not fit, naming what was given and what is allowed.
        BackendError: no backend, or not the one named, can run the call.
    """
    args, _ = lower(patches, output_size, mode=mode, grid=grid, num_prefix_tokens=num_prefix_tokens)
    patches = args[0]
    chosen = choose(NAME, backend, Request(patches.device.type, patches.dtype))
    if chosen == "reference":
        return run_reference(*args)
    pooled: Tensor = call(NAME, chosen, *args)
    return pooled


def lower(
    patches: Tensor,
    output_size: int | tuple[int, int] | None = None,
    *,
    mode: str = "adaptive",
    grid: tuple[int, int] | None = None,
    num_prefix_tokens: int = 0,
    **_: Any,
) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Checks, then the arguments of the low-level op and the batch shape of the result."""
    (patches,) = autocast(patches)
    check_dtype(patches=patches)
    if patches.dim() != 3 or patches.shape[-1] == 0:
        raise ValueError(f"patches must be [F, N, C] with C of at least 1, given {tuple(patches.shape)}")
    geometry = pool_geometry(patches.shape[1], output_size, mode, grid, num_prefix_tokens)
    return (patches, *geometry), (patches.shape[0],)


def run_reference(patches: Tensor, *geometry: int, same_dtype: bool = False) -> Tensor:
    """The reference with float32 arithmetic for narrower inputs, rounded once; `same_dtype`: in the input's dtype throughout."""
    wide = patches.dtype if same_dtype else torch.promote_types(patches.dtype, torch.float32)
    return reference(patches.to(wide), PoolGeometry(*geometry)).to(patches.dtype)


def cost(patches: Tensor, *args: Any, **kwargs: Any) -> Cost:
    """One addition for every element of every cell's window, a scaling for every output."""
    (x, *rest), _ = lower(patches, *args, **kwargs)
    geometry = PoolGeometry(*rest)
    frames, _, c = x.shape
    outputs = frames * geometry.cells * c
    window = frames * geometry.height * geometry.width * c
    return Cost(window + outputs, window * x.element_size(), outputs * x.element_size())


def _fake(patches: Tensor, prefix: int, pitch: int, height: int, width: int, out_height: int, out_width: int) -> Tensor:
    return patches.new_empty(patches.shape[0], out_height * out_width, patches.shape[2])


def _fake_backward(
    grad: Tensor, tokens: int, prefix: int, pitch: int, height: int, width: int, out_height: int, out_width: int
) -> Tensor:
    return grad.new_empty(grad.shape[0], tokens, grad.shape[2])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.tokens = inputs[0].shape[1]
    ctx.geometry = inputs[1:]


def _backward(backend: str) -> Any:
    op = low_level(f"{NAME}_backward", backend)

    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return op(grad, ctx.tokens, *ctx.geometry), *(None,) * 6

    return backward


register(NAME, _fake, _fake_backward, setup_context=_setup_context, backward=_backward)
