"""Every CUDA kernel, with its bindings, as plain C++ in tests/emulator: values, gradients, order of threads, offsets, no GPU."""

import ctypes
import shutil
from itertools import combinations

import pytest
import torch
from emulated_kernels import check, check_orders, kernel
from torch import Tensor

from longreel.ops.registry import OPS
from longreel.testing import far, poison
from longreel.testing.cases import corners
from longreel.testing.cases.case import Case
from longreel.testing.cases.frames import frames_case
from longreel.testing.determinism import same_bits
from longreel.testing.runner import DTYPES, Variant, layouts, low_level, prepare, run, yardstick

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="no C++ compiler to build the emulated kernels with"
)

SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
VARIANTS = [Variant(op, "cuda", "cpu") for op, spec in OPS.items() if any(row.backend == "cuda" for row in spec.rows)]
ATTENTION = [variant for variant in VARIANTS if "query" in variant.spec.differentiable]


def served(variant: Variant) -> list[Case]:
    refused = getattr(corners(variant.op), "REFUSED", {}).get("cuda", {})
    return [case for case in corners(variant.op).cases() if case.name not in refused]


each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=SHORT.get)


@pytest.mark.parametrize(
    ("variant", "case"),
    [pytest.param(v, c, id=f"{v}-{c.name}") for v in VARIANTS for c in served(v)],
)
@each_dtype
def test_equals_the_reference(emulator: ctypes.CDLL, variant: Variant, case: Case, dtype: torch.dtype) -> None:
    check_orders(emulator, variant, prepare(case.inputs(), dtype), dtype)


@pytest.mark.parametrize("variant", ATTENTION, ids=str)
@pytest.mark.parametrize(
    ("rows", "tokens", "width", "frames"),
    [(32, 200, 264, 3), (65, 130, 72, 2), (200, 33, 40, 2), (1, 1030, 24, 2), (3, 16, 8, 70), (7, 12, 1544, 1)],
)
@each_dtype
def test_sizes(
    emulator: ctypes.CDLL, variant: Variant, rows: int, tokens: int, width: int, frames: int, dtype: torch.dtype
) -> None:
    """Beyond one tile of tokens, rows, channels and frames in every direction; masks, prompts."""
    pooling = {} if variant.op == "context_attention" else {"mode": "mean"}
    case = frames_case(
        "size", lead=(2, 1), rows=rows, tokens=tokens, width=width, frames=frames, masked=True, **pooling
    )
    check_orders(emulator, variant, prepare(case.inputs(), dtype), dtype)


@pytest.mark.parametrize("variant", ATTENTION, ids=str)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=SHORT.get)
def test_only_wanted_gradients(emulator: ctypes.CDLL, variant: Variant, dtype: torch.dtype) -> None:
    """Every set of inputs that want a gradient, through every set of outputs that pass one."""
    outputs = ("context", "weights") if variant.op == "context_attention" else ("context", "content", "weights")
    for case in (case for case in served(variant) if case.fast):
        inputs = prepare(case.inputs(), dtype)
        for through in subsets(outputs):
            expected = yardstick(variant.op, inputs, dtype, ("query", "patches"), through)
            for wanted in subsets(("query", "patches")):
                with poison():
                    got = run(variant.op, low_level(variant), inputs, wanted, through)
                assert set(got.grads) == set(wanted)
                expected.check({f"grad_{name}": grad for name, grad in got.grads.items()})


def subsets(items: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [chosen for size in range(1, len(items) + 1) for chosen in combinations(items, size)]


@pytest.mark.parametrize("variant", ATTENTION, ids=str)
@each_dtype
def test_queries_that_do_not_count_may_hold_anything(
    emulator: ctypes.CDLL, variant: Variant, dtype: torch.dtype
) -> None:
    pooling = {} if variant.op == "context_attention" else {"mode": "mean"}
    inputs = prepare(frames_case("masked", lead=(2, -1), masked=True, **pooling).inputs(), dtype)
    query, mask = inputs["query"], inputs["query_mask"][..., None]
    clean = kernel(variant, {**inputs, "query": query.masked_fill(~mask, 0.0)})
    got = kernel(variant, {**inputs, "query": query.masked_fill(~mask, torch.nan)})
    assert all(same_bits(got[name], value) for name, value in clean.items())


@pytest.mark.parametrize("l2_bytes", [1 << 12, 1 << 16, 1 << 26])
def test_any_card(emulator: ctypes.CDLL, l2_bytes: int) -> None:
    """Few and many blocks, frames summed one at a time and sixteen together: right, and the outputs are the same bits."""
    case = frames_case("card", rows=20, tokens=70, width=72, frames=37, return_weights=True, mode="mean")
    inputs, variant = prepare(case.inputs(), torch.float32), Variant("compress_frames", "cuda", "cpu")
    first = kernel(variant, inputs, grad=False)
    try:
        for multiprocessors in (1, 7):
            emulator.emulator_set_card(multiprocessors, l2_bytes)
            got = kernel(variant, inputs)
            check(variant, inputs, torch.float32, got)
            assert all(same_bits(got[name], value) for name, value in first.items())
    finally:
        emulator.emulator_set_card(3, 256 << 10)


def test_rows_longer_than_shared_memory(emulator: ctypes.CDLL) -> None:
    emulator.emulator_set_order(0)
    case = frames_case("long", rows=2, tokens=25000, width=8, frames=1, mode="mean")
    check(Variant("compress_frames", "cuda", "cpu"), prepare(case.inputs(), torch.bfloat16), torch.bfloat16)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=SHORT.get)
def test_any_strides(emulator: ctypes.CDLL, variant: Variant, dtype: torch.dtype) -> None:
    for case in (case for case in served(variant) if case.fast):
        inputs = prepare(case.inputs(), dtype)
        for name, value in inputs.items():
            if not isinstance(value, Tensor):
                continue
            if name == "cu_seqlens":
                stepped = value.new_empty(2 * value.numel())[::2].copy_(value)
                moved = {"stepped": stepped, "int32": value.int()}
            else:
                moved = layouts(value)
            for layout, view in moved.items():
                check(variant, {**inputs, name: view}, dtype, label=f"{case.name}, {name} {layout}: ")


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=SHORT.get)
def test_strides_beyond_32_bits(emulator: ctypes.CDLL, variant: Variant, dtype: torch.dtype) -> None:
    for case in (case for case in served(variant) if case.fast):
        inputs = prepare(case.inputs(), dtype)
        for name, value in inputs.items():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            for dim in range(value.dim() - 1):
                if value.shape[dim] > 1:
                    check(variant, {**inputs, name: far(value, dim)}, dtype)


@pytest.mark.parametrize("given", [[0, 90, 4, 5], [-7, 3, 2, 60], [3, 3, 3, 3]])
def test_borders_outside_the_patches_are_cut_off(emulator: ctypes.CDLL, given: list[int]) -> None:
    """The device cannot raise: bad cu_seqlens read and write nothing beyond the patches."""
    total = 10
    padded = torch.full((3 * total, 16), torch.nan)
    padded[total : 2 * total] = 1.0
    context, _, _ = low_level(Variant("context_attention", "cuda", "cpu"))(
        torch.ones(1, 1, 2, 16), padded[total : 2 * total], None, torch.tensor(given), 1.0
    )
    assert torch.minimum(context.abs(), (context - 1).abs()).max() < 1e-6
