"""What the gpu tests run: every kernel that the backend table offers on CUDA, at real sizes."""

from typing import Any

import pytest
import torch

from longreel.layout import VideoLayout
from longreel.ops.registry import OPS
from longreel.reference.block_sparse_attention import layout_case
from longreel.reference.case import Case, normal
from longreel.reference.context_attention import frames_case
from longreel.schemas import KERNEL_BACKENDS
from longreel.testing import check
from longreel.testing.cases import DTYPES, Inputs, Run, Variant, low_level, prepare, run

SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
TOWER = {"rows": 32, "tokens": 257, "width": 1408}
POOL = {"output_size": 4, "num_prefix_tokens": 1}
HEADS: dict[str, Any] = {"batch": 1, "heads": (8, 2), "width": 128, "return_lse": True}


def pool_case(name: str, tokens: int, width: int, frames: int, **options: Any) -> Case:
    return Case(name, lambda generator, count: {"patches": normal(generator, count, tokens, width), **options}, frames)


def voco(frames: int) -> VideoLayout:
    return VideoLayout.voco(frames=frames, vision=576, voco=2, text=64, prefix=35, mode="causal")


def vst(frames: int) -> VideoLayout:
    return VideoLayout.vst(visual=144 * frames, chunk=1440, ratio=8, prefix=14, text=70)


def decoding(frames: int) -> VideoLayout:
    whole = VideoLayout.vst(visual=144 * frames, chunk=1440, ratio=2, prefix=14, text=3000)
    return whole.rows(whole.length - 4, whole.length)


def samples(frames: int) -> VideoLayout:
    return VideoLayout.batch([voco(frames), vst(frames), VideoLayout.causal(700)])


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
    "block_sparse_attention": [
        layout_case("voco", voco, frames=5, **HEADS),
        layout_case("voco-sharp", voco, frames=3, sharp=5.0, **HEADS),
        layout_case("vst-far", lambda frames: vst(frames).grouped(), frames=20, far=True, **HEADS),
        layout_case("left-padded", samples, frames=2, **HEADS | {"batch": 3}),
        layout_case("window", lambda frames: VideoLayout.sliding_window(600 * frames, 512, 4), frames=5, **HEADS),
        layout_case("decode", decoding, frames=100, beyond=50, **HEADS),
        layout_case("decode-far", decoding, frames=100, far=True, **HEADS),
        *(layout_case(f"head-size-{width}", voco, frames=2, **HEADS | {"width": width}) for width in (64, 80, 96, 256)),
    ],
}
# How a kernel lives with the rest of a program is asked of each way it has to run: the first case, and decoding.
LIVED = {op: [case for case in listed if case is listed[0] or case.name == "decode"] for op, listed in CASES.items()}
# The input whose values a test changes.
MAIN = {op: "q" if op == "block_sparse_attention" else "patches" for op in CASES}

VARIANTS = [
    Variant(op, row.backend, "cuda")
    for op in CASES
    for row in OPS[op].rows
    if "cuda" in row.devices and row.backend in KERNEL_BACKENDS
]


def _over(cases: dict[str, list[Case]]) -> Any:
    params = [pytest.param(v, c, id=f"{v}-{c.name}") for v in VARIANTS for c in cases[v.op]]
    return pytest.mark.parametrize(("variant", "case"), params)


each_case, each_lived = _over(CASES), _over(LIVED)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=SHORT.get)


def drawn(case: Case, dtype: torch.dtype = torch.bfloat16, frames: int | None = None, device: str = "cuda") -> Inputs:
    return prepare(case.inputs(frames), dtype, device)


def differentiable(variant: Variant, inputs: Inputs) -> tuple[str, ...]:
    return tuple(name for name in variant.spec.specification.DIFFERENTIABLE if name in inputs)


def kernel(variant: Variant, inputs: Inputs, grad: bool = True) -> Run:
    return run(variant.op, low_level(variant), inputs, differentiable(variant, inputs) if grad else ())


def check_against_truth(variant: Variant, inputs: Inputs, dtype: torch.dtype, got: Run) -> None:
    """The error budget: truth in float64, yardstick in `dtype`, both by the reference on the same device."""
    spec, wanted = variant.spec, tuple(got.grads)
    truth = run(variant.op, spec.reference, prepare(inputs, torch.float64, "cuda"), wanted).everything
    plain = run(
        variant.op, lambda *args: spec.reference(*args, same_dtype=True), prepare(inputs, dtype, "cuda"), wanted
    ).everything
    for name, value in got.everything.items():
        check(name, value, truth[name], plain[name], dtype)
