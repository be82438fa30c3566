"""What the gpu tests of frames run: every kernel over patches that the backend table offers on CUDA, at real sizes."""

from typing import Any

import pytest
import torch

from longreel.ops.registry import OPS
from longreel.reference.case import Case, normal
from longreel.reference.context_attention import frames_case
from longreel.testing import check
from longreel.testing.cases import DTYPES, Inputs, Run, Variant, low_level, prepare, run

SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
TOWER = {"rows": 32, "tokens": 257, "width": 1408}
POOL = {"output_size": 4, "num_prefix_tokens": 1}


def pool_case(name: str, tokens: int, width: int, frames: int, **options: Any) -> Case:
    return Case(name, lambda generator, count: {"patches": normal(generator, count, tokens, width), **options}, frames)


CASES: dict[str, list[Case]] = {
    "context_attention": [
        frames_case("tower", **TOWER, frames=40, return_weights=True),
        frames_case(
            "sharp-text", rows=77, tokens=577, width=1024, frames=9, sharp=5.0, masked=True, return_weights=True
        ),
        frames_case(
            "packed-prompts",
            lead=(2, -1),
            rows=9,
            packed=(1, 300),
            width=1152,
            frames=8,
            masked=True,
            return_weights=True,
        ),
        frames_case("per-frame", lead=(-1,), **TOWER, frames=9, return_weights=True),
        frames_case("prompts", lead=(5, 1), **TOWER, frames=9, return_weights=True),
        frames_case("packed", rows=32, width=1408, packed=(257, 0, 1, 577, 100), frames=40, return_weights=True),
        frames_case(
            "packed-per-frame",
            lead=(2, -1),
            rows=7,
            width=1025,
            packed=(65, 0, 300),
            masked=True,
            frames=9,
            return_weights=True,
        ),
    ],
    "adaptive_pool": [
        pool_case("tower", 257, 1408, 40, **POOL),
        pool_case("overlapping", 576, 1024, 9, output_size=5),
        pool_case("mean", 257, 1408, 9, mode="mean", num_prefix_tokens=1),
        pool_case("none", 257, 1408, 9, mode="none", num_prefix_tokens=1),
    ],
    "compress_frames": [
        frames_case("tower", **TOWER, **POOL, frames=40, return_weights=True),
        frames_case("tower-mean", **TOWER, mode="mean", num_prefix_tokens=1, frames=133, return_weights=True),
        frames_case(
            "sharp-overlapping",
            rows=40,
            tokens=576,
            width=1024,
            frames=9,
            sharp=5.0,
            output_size=5,
            return_weights=True,
        ),
        frames_case("prompts", lead=(3, -1), masked=True, **TOWER, **POOL, frames=6, return_weights=True),
        frames_case(
            "odd", rows=3, tokens=577, width=333, mode="none", num_prefix_tokens=1, frames=7, return_weights=True
        ),
    ],
}

VARIANTS = [
    Variant(op, row.backend, "cuda")
    for op in CASES
    for row in OPS[op].rows
    if "cuda" in row.devices and row.backend != "reference"
]


each_kernel = pytest.mark.parametrize("variant", VARIANTS, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=SHORT.get)
each_case = pytest.mark.parametrize(
    ("variant", "case"),
    [pytest.param(v, c, id=f"{v}-{c.name}") for v in VARIANTS for c in CASES[v.op]],
)


def tower(variant: Variant, dtype: torch.dtype = torch.bfloat16, frames: int | None = None) -> Inputs:
    return prepare(CASES[variant.op][0].inputs(frames), dtype, "cuda")


def kernel(variant: Variant, inputs: Inputs, grad: bool = True) -> Run:
    wanted = variant.spec.specification.DIFFERENTIABLE if grad else ()
    return run(variant.op, low_level(variant), inputs, wanted)


def check_against_truth(variant: Variant, inputs: Inputs, dtype: torch.dtype, got: Run) -> None:
    """The error budget: truth in float64, yardstick in `dtype`, both by the reference on the same device."""
    spec = variant.spec
    wanted = spec.specification.DIFFERENTIABLE if got.grads else ()
    truth = run(variant.op, spec.reference, prepare(inputs, torch.float64, "cuda"), wanted)
    plain = run(
        variant.op, lambda *args: spec.reference(*args, same_dtype=True), prepare(inputs, dtype, "cuda"), wanted
    )
    for name, value in got.everything.items():
        check(name, value, truth.everything[name], plain.everything[name], dtype)
