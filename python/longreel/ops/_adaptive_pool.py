"""adaptive_pool: the patches of a frame averaged or interpolated down to a few content tokens."""

from typing import Any

import torch
from torch import Tensor

from longreel.backends import LOW, Row, reference_row
from longreel.ops.common.arguments import check_tensors
from longreel.ops.common.cost import Cost
from longreel.ops.common.queries import autocast
from longreel.ops.op import Backward, Lowered, Op, run
from longreel.reference.adaptive_pool import adaptive_pool as reference
from longreel.reference.packed_grids import lower_grids, packed_grids, time_axis
from longreel.reference.pool_geometry import MODES, PoolGeometry, pool_geometry
from longreel.schemas import arguments

NAME = "adaptive_pool"
Arguments = arguments(NAME)
_PACKED = PoolGeometry(0, 1, 0, 1, 0, 1)
_MODES = (*MODES, "bilinear")


def adaptive_pool(
    patches: Tensor,
    output_size: Any = None,
    *,
    mode: str = "adaptive",
    grid: tuple[int, int] | None = None,
    grid_thw: Any = None,
    num_prefix_tokens: int = 0,
    backend: str | None = None,
) -> Tensor:
    """Content tokens of every frame or picture: the patch grid averaged or interpolated down to `output_size`.

    LLaMA-VID (arXiv 2311.17043), section 3.1: the adaptive pooling that makes n content tokens of N patches; LLaVA-OneVision
    (arXiv 2408.03326): the bilinear interpolation of a video's frames.

    Args:
        patches: ``[F, N, C]``, or with `grid_thw` packed ``[total, C]``; float32, bfloat16 or float16 (float64 on the
            reference), any strides.
        output_size: n cells a side, (rows, columns), or with a time axis (frames, rows, columns): F frames, or those of a
            picture, are averaged to so many, as space is in mode "adaptive". With `grid_thw` also a list of these, one a picture.
            Unused by modes "mean" and "none".
        mode: "adaptive", PyTorch's adaptive average pooling, any output size; "bilinear", interpolation between the four patches
            about a cell's middle (``interpolate(mode="bilinear")``: align_corners and antialias off; over time averages); "grid",
            LLaMA-VID's released rule "grid:g" with g = `output_size` (kernel = stride = side // g, so side // kernel cells a
            side: 8 for g = 6 on a side of 16, and rows beyond kernel * cells dropped); "mean", one token; "none", all N patches.
        grid: (height, width) of the patches after the prefix; None is their square.
        grid_thw: (frames, height, width) of every picture ``[P, 3]``, a list or a tensor on the CPU: patches are packed, a
            picture after another, each in row-major order. Modes "adaptive" and "bilinear".
        num_prefix_tokens: leading tokens (CLS) that are not part of the grid.
        backend: None chooses (see `longreel.explain`); a name that cannot run raises BackendError.

    Returns:
        ``[F, n, C]`` in the input's dtype, row-major over the cells, ``[frames, n, C]`` with a time axis; of packed patches
        ``[cells of all pictures, C]``. Accumulated in float32, rounded once.

    Raises:
        ValueError, TypeError: a grid, size or mode that does not fit, naming what was given and what is allowed.
        BackendError: no backend, or not the one named, can run the call.
    """
    lowered = lower(patches, output_size, mode=mode, grid=grid, grid_thw=grid_thw, num_prefix_tokens=num_prefix_tokens)
    pooled: Tensor = run(OP, lowered, backend)
    return pooled


def lower(
    patches: Tensor,
    output_size: Any = None,
    *,
    mode: str = "adaptive",
    grid: tuple[int, int] | None = None,
    grid_thw: Any = None,
    num_prefix_tokens: int = 0,
) -> Lowered:
    """Checks, then the arguments of the low-level op."""
    check_tensors(patches=patches)
    (patches,) = autocast(patches)
    dims, shown = (3, "[F, N, C]") if grid_thw is None else (2, "[total, C] with grid_thw")
    if patches.dim() != dims or patches.shape[-1] == 0:
        raise ValueError(f"patches must be {shown} with C of at least 1, given {tuple(patches.shape)}")
    if not isinstance(mode, str):
        raise TypeError(f"mode is a {type(mode).__name__}; allowed: {str(_MODES)[1:-1]}")
    bilinear = int(mode == "bilinear")
    if grid_thw is not None:
        if grid is not None or num_prefix_tokens != 0:
            raise ValueError(
                f"grid_thw gives every picture its grid, and no prefix: grid={grid}, num_prefix_tokens={num_prefix_tokens};"
                " allowed: neither"
            )
        grids = lower_grids(patches.shape[0], output_size, grid_thw, mode)
        return Lowered(Arguments(patches, *_PACKED, 0, bilinear, grids))
    out_frames, output_size = time_axis(output_size, patches.shape[0], mode)
    geometry = pool_geometry(patches.shape[1], output_size, mode, grid, num_prefix_tokens, _MODES)
    return Lowered(Arguments(patches, *geometry, out_frames, bilinear, []))


def run_reference(patches: Tensor, *args: Any, same_dtype: bool = False) -> Tensor:
    """The reference with float32 arithmetic for narrower inputs, rounded once; `same_dtype`: in the input's dtype throughout."""
    *geometry, out_frames, bilinear, grids = args
    wide = patches.dtype if same_dtype else torch.promote_types(patches.dtype, torch.float32)
    pooled = reference(patches.to(wide), PoolGeometry(*geometry), out_frames, bool(bilinear), grids)
    return pooled.to(patches.dtype)


def cost(patches: Tensor, *sizes: Any, **options: Any) -> Cost:
    """One addition for every element of every cell's window (a multiplication, too, where it is interpolated: four elements),
    a scaling for every output."""
    args = lower(patches, *sizes, **options).args
    x = args.patches
    outputs = fake(args._replace(patches=x.to("meta"))).numel()
    window = x.numel() if x.dim() == 2 else x.shape[0] * args.height * args.width * x.shape[-1]
    flops = 8 * outputs if args.bilinear else window + outputs
    return Cost(flops, window * x.element_size(), outputs * x.element_size())


def refuses_grids(lowered: Lowered) -> str | None:
    """Why the CUDA C++ kernel does not serve a call."""
    args = lowered.args
    named = {
        "bilinear interpolation": args.bilinear,
        "packed patches": args.patches.dim() == 2,
        "a time axis": args.out_frames,
    }
    found = " and ".join(name for name, wanted in named.items() if wanted)
    return f"it averages the frames of [F, N, C] one by one, the call has {found}" if found else None


def fake(args: Any) -> Tensor:
    frames, *_, c = args.patches.shape
    if args.patches.dim() == 2:
        made: Tensor = args.patches.new_empty(sum(one.cells for one in packed_grids(args.grids)), c)
        return made
    made = args.patches.new_empty(args.out_frames or frames, args.out_height * args.out_width, c)
    return made


def fake_backward(args: Any) -> Tensor:
    frames, *_, c = args.grad_output.shape
    shape = (args.tokens, c) if args.grad_output.dim() == 2 else (args.frames or frames, args.tokens, c)
    made: Tensor = args.grad_output.new_empty(shape)
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
    backward=Backward(
        sizes={
            "tokens": lambda args: args.patches.shape[-2],
            "frames": lambda args: args.patches.shape[0] if args.out_frames else 0,
        },
        fake=fake_backward,
    ),
    objections={"cuda": refuses_grids},
)
