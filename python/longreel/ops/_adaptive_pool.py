"""adaptive_pool: the patches of a frame averaged down to a few content tokens."""

from typing import Any

import torch
from torch import Tensor

from longreel.backends import LOW, Row, reference_row
from longreel.ops.common.arguments import check_tensors
from longreel.ops.common.cost import Cost
from longreel.ops.common.queries import autocast
from longreel.ops.op import Backward, Lowered, Op, run
from longreel.reference.adaptive_pool import adaptive_pool as reference
from longreel.reference.pool_geometry import PoolGeometry, pool_geometry
from longreel.schemas import arguments

NAME = "adaptive_pool"
Arguments = arguments(NAME)


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
    lowered = lower(patches, output_size, mode=mode, grid=grid, num_prefix_tokens=num_prefix_tokens)
    pooled: Tensor = run(OP, lowered, backend)
    return pooled


def lower(
    patches: Tensor,
    output_size: int | tuple[int, int] | None = None,
    *,
    mode: str = "adaptive",
    grid: tuple[int, int] | None = None,
    num_prefix_tokens: int = 0,
) -> Lowered:
    """Checks, then the arguments of the low-level op."""
    check_tensors(patches=patches)
    (patches,) = autocast(patches)
    if patches.dim() != 3 or patches.shape[-1] == 0:
        raise ValueError(f"patches must be [F, N, C] with C of at least 1, given {tuple(patches.shape)}")
    geometry = pool_geometry(patches.shape[1], output_size, mode, grid, num_prefix_tokens)
    return Lowered(Arguments(patches, *geometry))


def run_reference(patches: Tensor, *geometry: int, same_dtype: bool = False) -> Tensor:
    """The reference with float32 arithmetic for narrower inputs, rounded once; `same_dtype`: in the input's dtype throughout."""
    wide = patches.dtype if same_dtype else torch.promote_types(patches.dtype, torch.float32)
    return reference(patches.to(wide), PoolGeometry(*geometry)).to(patches.dtype)


def cost(patches: Tensor, *sizes: Any, **options: Any) -> Cost:
    """One addition for every element of every cell's window, a scaling for every output."""
    args = lower(patches, *sizes, **options).args
    x = args.patches
    frames, _, c = x.shape
    outputs = frames * args.out_height * args.out_width * c
    window = frames * args.height * args.width * c
    return Cost(window + outputs, window * x.element_size(), outputs * x.element_size())


def fake(args: Any) -> Tensor:
    frames, _, c = args.patches.shape
    made: Tensor = args.patches.new_empty(frames, args.out_height * args.out_width, c)
    return made


def fake_backward(args: Any) -> Tensor:
    frames, _, c = args.grad_output.shape
    made: Tensor = args.grad_output.new_empty(frames, args.tokens, c)
    return made


OP = Op(
    NAME,
    adaptive_pool,
    lower,
    run_reference,
    cost,
    rows=(
        Row(NAME, "cuda", ("cuda",), LOW, "CUDA C++, 16-byte loads, no compile at the first call"),
        Row(NAME, "triton", ("cuda",), LOW, "the same gather, compiled at the first call"),
        Row(NAME, "cpu", ("cpu",), LOW, "threaded, vectorised C++ that reads the patches from memory once"),
        reference_row(NAME),
    ),
    fake=fake,
    backward=Backward(sizes={"tokens": lambda args: args.patches.shape[1]}, fake=fake_backward),
)
