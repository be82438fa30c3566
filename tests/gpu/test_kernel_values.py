"""Results of every CUDA and Triton kernel at real sizes, under the error budget."""

import dataclasses

import pytest
import torch
from gpu_cases import (
    POOL,
    TOWER,
    VARIANTS,
    Case,
    Variant,
    check_against_truth,
    each_case,
    each_dtype,
    each_kernel,
    kernel,
    tower,
)

from longreel.reference.context_attention import frames_case
from longreel.testing import far, poison
from longreel.testing.cases import layouts, low_level, prepare, run
from longreel.testing.determinism import same_bits

FRAME_PASSES = [v for v in VARIANTS if v.op in ("context_attention", "compress_frames")]


@each_case
@each_dtype
def test_values_and_gradients(variant: Variant, case: Case, dtype: torch.dtype) -> None:
    inputs = prepare(case.inputs(), dtype, "cuda")
    with poison():
        got = kernel(variant, inputs)
    check_against_truth(variant, inputs, dtype, got)


@pytest.mark.parametrize("variant", FRAME_PASSES, ids=str)
@pytest.mark.parametrize(("frames", "tokens"), [(1, 1), (1, 4096), (2, 17), (5, 577), (34, 256), (35, 256), (1000, 64)])
def test_any_number_of_frames(variant: Variant, frames: int, tokens: int) -> None:
    """Frames that fill, half fill and overflow what lies between scores and sweeps."""
    pooling = {} if variant.op == "context_attention" else {"mode": "mean"}
    case = frames_case("frames", rows=32, tokens=tokens, width=264, frames=frames, return_weights=True, **pooling)
    inputs = prepare(case.inputs(), torch.bfloat16, "cuda")
    check_against_truth(variant, inputs, torch.bfloat16, kernel(variant, inputs))


@pytest.mark.parametrize("variant", [v for v in FRAME_PASSES if v.backend == "triton"], ids=str)
@pytest.mark.parametrize("lag", [0, 1, 5])
def test_sweeps_at_any_time(variant: Variant, lag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps before their scores, among them and after them: the same bits."""
    from longreel.triton_kernels import frame_backward, frame_pass
    from longreel.triton_kernels.frame_config import frame_config

    inputs = tower(variant)
    expected = kernel(variant, inputs).everything
    for room in (frame_pass, frame_backward):
        monkeypatch.setattr(
            room, "frame_config", lambda *args, **kwargs: dataclasses.replace(frame_config(*args, **kwargs), lag=lag)
        )
    got = kernel(variant, inputs).everything
    assert all(same_bits(got[name], value) for name, value in expected.items())


@pytest.mark.parametrize("variant", FRAME_PASSES, ids=str)
@pytest.mark.parametrize("rows", [1, 16, 33, 64, 65, 128, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_any_number_of_queries(variant: Variant, rows: int, dtype: torch.dtype) -> None:
    pooling = {} if variant.op == "context_attention" else POOL
    case = frames_case("queries", **TOWER | {"rows": rows}, frames=5, return_weights=True, **pooling)
    inputs = prepare(case.inputs(), dtype, "cuda")
    check_against_truth(variant, inputs, dtype, kernel(variant, inputs))


@each_kernel
@each_dtype
def test_any_strides(variant: Variant, dtype: torch.dtype) -> None:
    inputs = tower(variant, dtype, frames=5)
    for name in ("query", "patches"):
        for layout, view in layouts(inputs[name]).items() if name in inputs else ():
            moved = {**inputs, name: view}
            try:
                check_against_truth(variant, moved, dtype, kernel(variant, moved))
            except AssertionError as error:
                raise AssertionError(f"{name} {layout}: {error}") from None


@each_kernel
@pytest.mark.parametrize("dim", [0, 1])
def test_strides_beyond_32_bits(variant: Variant, dim: int) -> None:
    inputs = tower(variant, frames=3)
    moved = {**inputs, "patches": far(inputs["patches"], dim)}
    check_against_truth(variant, moved, torch.bfloat16, kernel(variant, moved))


@each_kernel
def test_more_than_2_31_elements(variant: Variant) -> None:
    """6,000 x 257 x 1408 patches, contiguous: the last frames come out as they do alone, gradients included."""
    frames = 6000
    free = torch.cuda.mem_get_info()[0]
    needed = 3 * frames * 257 * 1408 * 2
    if free < needed:
        pytest.skip(f"needs {needed >> 30} GiB of GPU memory, {free >> 30} GiB are free")
    small = tower(variant, frames=3)
    patches = torch.zeros(frames, *small["patches"].shape[1:], dtype=torch.bfloat16, device="cuda")
    patches[-3:] = small["patches"]
    assert patches.numel() > 2**31
    expected = kernel(variant, small, grad=False).outputs
    got = kernel(variant, {**small, "patches": patches}, grad=False).outputs
    for name, value in got.items():
        axis = 1 if name in ("context", "weights", "lse") else 0
        assert same_bits(value.narrow(axis, frames - 3, 3), expected[name]), name
    expected_grad = kernel(variant, small).grads["patches"]
    grad = run(variant.op, low_level(variant), {**small, "patches": patches}, ("patches",)).grads["patches"]
    assert same_bits(grad[-3:], expected_grad)


@each_kernel
@each_dtype
def test_the_same_bits_every_time(variant: Variant, dtype: torch.dtype) -> None:
    inputs = tower(variant, dtype)
    first = kernel(variant, inputs).everything
    for _ in range(30):
        again = kernel(variant, inputs).everything
        assert all(same_bits(again[name], value) for name, value in first.items())
