"""Results of every CUDA and Triton kernel at real sizes, under the error budget."""

import dataclasses

import pytest
import torch
from gpu_cases import (
    CASES,
    MAIN,
    VARIANTS,
    Case,
    Variant,
    check_against_truth,
    differentiable,
    drawn,
    each_case,
    each_dtype,
    each_lived,
    kernel,
    tensors,
)
from torch import Tensor

from longreel.layout import VideoLayout
from longreel.testing import check, far, poison
from longreel.testing.cases.block_sparse_attention import HEADS, real_voco
from longreel.testing.cases.case import Inputs
from longreel.testing.cases.frames import POOL, TOWER, frames_case
from longreel.testing.cases.layouts import layout_case
from longreel.testing.determinism import same_bits
from longreel.testing.runner import LowLevel, layouts, low_level, prepare, run

FRAME_PASSES = [v for v in VARIANTS if v.op in ("context_attention", "compress_frames")]
on_patches = pytest.mark.parametrize("variant", [v for v in VARIANTS if MAIN[v.op] == "patches"], ids=str)
on_layouts = pytest.mark.parametrize("variant", [v for v in VARIANTS if v.op == "block_sparse_attention"], ids=str)


def tower(variant: Variant, frames: int | None = None) -> Inputs:
    return drawn(CASES[variant.op][0], frames=frames)


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
    from longreel.triton_kernels.frames import backward, forward
    from longreel.triton_kernels.frames.config import frame_config

    inputs = tower(variant)
    expected = kernel(variant, inputs).everything
    for room in (forward, backward):
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


@each_lived
@each_dtype
def test_any_strides(variant: Variant, case: Case, dtype: torch.dtype) -> None:
    inputs = drawn(case, dtype, frames=min(case.frames, 5))
    for name in tensors(inputs):
        for layout, view in layouts(inputs[name]).items():
            moved = {**inputs, name: view}
            try:
                check_against_truth(variant, moved, dtype, kernel(variant, moved))
            except AssertionError as error:
                raise AssertionError(f"{name} {layout}: {error}") from None


@each_lived
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_strides_beyond_32_bits(variant: Variant, case: Case, dim: int) -> None:
    """The last entry of a dimension, but the innermost, of every input that has a gradient, and of a memory."""
    inputs = drawn(case, frames=3)
    read = {*differentiable(variant, inputs), *({"mem_k", "mem_v"} & inputs.keys())}
    moved = {n: far(t, dim) for n in read if dim < (t := inputs[n]).dim() - 1 and t.shape[dim] > 1}
    check_against_truth(variant, inputs, torch.bfloat16, kernel(variant, {**inputs, **moved}))


def skip_without(room: int) -> None:
    free = torch.cuda.mem_get_info()[0]
    if free < room:
        pytest.skip(f"needs {room >> 30} GiB of GPU memory, {free >> 30} GiB are free")


@on_patches
def test_more_than_2_31_patches(variant: Variant) -> None:
    """6,000 x 257 x 1408 patches, contiguous: the last frames come out as they do alone, gradients included."""
    frames = 6000
    skip_without(3 * frames * 257 * 1408 * 2)
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


@on_layouts
def test_more_than_2_31_elements_of_rows(variant: Variant) -> None:
    """1,000 frames of 577 rows, 32 heads of 128: the last two come out as they do alone, gradients included."""
    frames, last, rows, wide = 1000, 2, 577, {"batch": 1, "heads": (32, 32), "width": 128, "return_lse": True}

    def alone(count: int) -> VideoLayout:
        return VideoLayout.voco(frames=count, vision=rows - 1, voco=1, text=0, mode="independent")

    skip_without(9 * frames * rows * 32 * 128 * 2)
    small = prepare(layout_case("alone", alone, frames=last, **wide).inputs(), torch.bfloat16, "cuda")
    whole: Inputs = {**small, "layout": alone(frames).to("cuda")}
    for name in "qkv":
        whole[name] = torch.zeros(1, frames * rows, 32, 128, dtype=torch.bfloat16, device="cuda")
        whole[name][:, -last * rows :] = small[name]
    assert whole["q"].numel() > 2**31

    def passed(function: LowLevel, inputs: Inputs) -> dict[str, Tensor]:
        """Output, LSE and gradients of the last rows; the upstream gradient of the others is 0."""
        leaves = [inputs[name].requires_grad_() for name in "qkv"]
        out, lse = function(*variant.spec.lower(**inputs))
        upstream = torch.zeros_like(out)
        upstream[:, -last * rows :] = torch.linspace(-1, 1, 128, device=out.device)
        grads = torch.autograd.grad(out, leaves, upstream)
        named = {"out": out, "lse": lse.mT, **{f"grad_{name}": g for name, g in zip("qkv", grads, strict=True)}}
        return {name: value[:, -last * rows :].detach().clone() for name, value in named.items()}

    reference, dtype = variant.spec.reference, torch.bfloat16
    truth = passed(reference, prepare(small, torch.float64, "cuda"))
    plain = passed(lambda *args: reference(*args, same_dtype=True), prepare(small, dtype, "cuda"))
    for name, value in passed(low_level(variant), whole).items():
        check(name, value, truth[name], plain[name], dtype)


@on_layouts
@each_dtype
@pytest.mark.parametrize("width", [64, 128, 256])
def test_tiles_of_small_cards(variant: Variant, width: int, dtype: torch.dtype) -> None:
    """What a card with 99 KiB a block would run, on the card that is here."""
    card = pytest.importorskip("longreel.triton_kernels.common.card")
    inputs = drawn(layout_case("voco", real_voco, frames=2, **HEADS | {"width": width}), dtype)
    with card.assumed(card.Card(6 << 20, card.PORTABLE_SHARED, 40, wgmma=False)):
        got = kernel(variant, inputs)
    check_against_truth(variant, inputs, dtype, got)
