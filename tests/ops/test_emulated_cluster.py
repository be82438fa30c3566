"""The kernel for clusters of blocks, its own source, in tests/emulator: values, sizes, orders, and what it refuses."""

import ctypes
import shutil

import pytest
import torch
from emulated_kernels import check, check_orders, kernel

from longreel.ops.common.hopper import refused_by_clusters
from longreel.ops.registry import OPS
from longreel.testing.cases import corners
from longreel.testing.cases.case import Case, Inputs
from longreel.testing.cases.frames import frames_case
from longreel.testing.determinism import same_bits
from longreel.testing.runner import Variant, low_level, prepare

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="no C++ compiler to build the emulated kernels with"
)

BF16, FP16 = torch.bfloat16, torch.float16
VARIANTS = [Variant(op, "cluster", "cpu") for op in ("compress_frames", "context_attention")]
FRAMES, CONTEXT = VARIANTS
each_dtype = pytest.mark.parametrize("dtype", [BF16, FP16], ids=("bf16", "fp16"))


def refusal(variant: Variant, inputs: Inputs) -> str | None:
    args = OPS[variant.op].lowered(**inputs).args
    return refused_by_clusters(args.query, args.patches)


def served(variant: Variant) -> list[Case]:
    return [case for case in corners(variant.op).cases() if case.name not in corners(variant.op).REFUSED["cluster"]]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_cases_that_are_refused(variant: Variant) -> None:
    given = {case.name: refusal(variant, prepare(case.inputs(), BF16)) for case in corners(variant.op).cases()}
    refused = corners(variant.op).REFUSED["cluster"]
    assert {name for name, why in given.items() if why} == refused.keys()
    assert all((given[name] or "").startswith(why) for name, why in refused.items())


@pytest.mark.parametrize(
    ("variant", "case"),
    [pytest.param(v, c, id=f"{v}-{c.name}") for v in VARIANTS for c in served(v)],
)
@each_dtype
def test_equals_the_reference(emulator: ctypes.CDLL, variant: Variant, case: Case, dtype: torch.dtype) -> None:
    inputs = prepare(case.inputs(), dtype)
    if dtype is BF16:
        check_orders(emulator, variant, inputs, dtype)
    else:
        check(variant, inputs, dtype)


@pytest.mark.parametrize("blocks", range(1, 9))
def test_any_number_of_blocks(emulator: ctypes.CDLL, blocks: int) -> None:
    """The last share is narrower where the channels do not divide; sharp softmax, a tile and a bit, one frame after another."""
    width = 352 * (blocks - 1) + 8 * (6 * blocks - 3) % 352
    pooling = {"output_size": (3, 2), "grid": (5, 14)}
    case = frames_case("blocks", rows=7, tokens=70, width=max(width, 24), frames=2, sharp=5.0, **pooling)
    inputs = prepare(case.inputs(), BF16)
    if blocks in (1, 3, 4):
        check_orders(emulator, FRAMES, inputs, BF16)
    else:
        emulator.emulator_set_order(2)
        check(FRAMES, inputs, BF16)


@pytest.mark.parametrize(
    ("lead", "rows", "tokens", "frames"),
    [
        ((), 32, 64, 5),
        ((), 33, 97, 3),
        ((-1,), 64, 31, 4),
        ((5, 1), 16, 65, 3),
        ((3, -1), 30, 129, 2),
        ((40, 1), 1, 20, 1),
    ],
)
@each_dtype
def test_sizes(
    emulator: ctypes.CDLL, lead: tuple[int, ...], rows: int, tokens: int, frames: int, dtype: torch.dtype
) -> None:
    """Both tiles of rows, prompts that need several passes, queries of every frame, masks; frames shorter than a tile."""
    case = frames_case(
        "size",
        lead=lead,
        rows=rows,
        tokens=tokens,
        width=368,
        frames=frames,
        masked=True,
        mode="mean",
        return_weights=True,
    )
    check(FRAMES, prepare(case.inputs(), dtype), dtype)


@pytest.mark.parametrize(
    ("tokens", "pooling"),
    [
        (258, {"output_size": 4, "num_prefix_tokens": 2}),
        (196, {"output_size": 5}),
        (130, {"output_size": (4, 3), "grid": (13, 10)}),
        (90, {"output_size": (20, 11), "grid": (9, 10)}),
        (102, {"output_size": 3, "mode": "grid", "num_prefix_tokens": 2}),
        (200, {"mode": "none", "num_prefix_tokens": 3}),
    ],
)
def test_cells_across_tiles(emulator: ctypes.CDLL, tokens: int, pooling: dict) -> None:
    """Cells that begin in one tile and end in another, overlap, or are finer than the patches."""
    for rows in (4, 40):
        case = frames_case("cells", rows=rows, tokens=tokens, width=40, frames=3, **pooling)
        check(FRAMES, prepare(case.inputs(), BF16), BF16)


@pytest.mark.parametrize("lead", [(), (3, 1)])
def test_packed_frames(emulator: ctypes.CDLL, lead: tuple[int, ...]) -> None:
    """Of any length, 0 among them, and more of them than clusters."""
    case = frames_case(
        "packed", lead=lead, rows=25, width=32, frames=9, packed=(70, 0, 1, 64, 129), return_weights=True
    )
    check_orders(emulator, CONTEXT, prepare(case.inputs(), BF16), BF16)


def test_queries_that_do_not_count_may_hold_anything(emulator: ctypes.CDLL) -> None:
    inputs = prepare(frames_case("masked", lead=(2, -1), masked=True, mode="mean").inputs(), BF16)
    query, mask = inputs["query"], inputs["query_mask"][..., None]
    clean = kernel(FRAMES, {**inputs, "query": query.masked_fill(~mask, 0.0)})
    got = kernel(FRAMES, {**inputs, "query": query.masked_fill(~mask, torch.nan)})
    assert all(same_bits(got[name], value) for name, value in clean.items())


@pytest.mark.parametrize("scale", [0.0, -0.3])
def test_any_scale(emulator: ctypes.CDLL, scale: float) -> None:
    case = frames_case("scale", rows=9, tokens=70, width=48, scale=scale, mode="mean", return_weights=True)
    check(FRAMES, prepare(case.inputs(), BF16), BF16)


def test_what_it_does_not_take_is_refused(emulator: ctypes.CDLL) -> None:
    """By one line, the same calls in Python and in C++."""
    wide = frames_case("wide", rows=2, tokens=4, width=2824, mode="mean")
    for case, given in (
        (frames_case("rows", rows=65, mode="mean"), "up to 64 query rows a prompt, given 65"),
        (wide, "up to 2816 channels, given 2824"),
        (frames_case("odd", width=17, mode="mean"), "whole 16 bytes"),
    ):
        inputs = prepare(case.inputs(), BF16)
        assert given in (refusal(FRAMES, inputs) or "")
        with pytest.raises(RuntimeError, match="clusters take 16-bit patches"):
            low_level(FRAMES)(*OPS[FRAMES.op].lowered(**inputs).args)
    inputs = prepare(frames_case("single", mode="mean").inputs(), torch.float32)
    with pytest.raises(RuntimeError, match="clusters take 16-bit patches"):
        low_level(FRAMES)(*OPS[FRAMES.op].lowered(**inputs).args)
