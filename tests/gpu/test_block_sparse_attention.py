"""block_sparse_attention's CUDA kernels at real sizes; the contract test runs its small cases on every device."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from longreel.layout import VideoLayout
from longreel.ops.registry import OPS
from longreel.reference.block_sparse_attention import DIFFERENTIABLE, layout_case
from longreel.reference.case import Case
from longreel.testing import check, far, poison
from longreel.testing.cases import DTYPES, Inputs, Run, Variant, low_level, prepare, run
from longreel.testing.determinism import same_bits

OP = "block_sparse_attention"
SIZES: dict[str, Any] = {"batch": 1, "heads": (8, 2), "width": 128, "return_lse": True}
VARIANTS = [
    Variant(OP, row.backend, "cuda")
    for row in OPS[OP].rows
    if "cuda" in row.devices and row.backend not in ("reference", "flash")
]


def voco(frames: int) -> VideoLayout:
    return VideoLayout.voco(frames=frames, vision=576, voco=2, text=64, prefix=35, mode="causal")


def vst(frames: int) -> VideoLayout:
    return VideoLayout.vst(visual=144 * frames, chunk=1440, ratio=8, prefix=14, text=70)


def decoding(frames: int) -> VideoLayout:
    whole = VideoLayout.vst(visual=144 * frames, chunk=1440, ratio=2, prefix=14, text=3000)
    return whole.rows(whole.length - 4, whole.length)


def samples(frames: int) -> VideoLayout:
    return VideoLayout.batch([voco(frames), vst(frames), VideoLayout.causal(700)])


CASES = {
    case.name: case
    for case in (
        layout_case("voco", voco, frames=5, **SIZES),
        layout_case("voco-sharp", voco, frames=3, sharp=5.0, **SIZES),
        layout_case("vst-far", lambda frames: vst(frames).grouped(), frames=20, far=True, **SIZES),
        layout_case("left-padded", samples, frames=2, **SIZES | {"batch": 3}),
        layout_case("window", lambda frames: VideoLayout.sliding_window(600 * frames, 512, 4), frames=5, **SIZES),
        layout_case("decode", decoding, frames=100, beyond=50, **SIZES),
        layout_case("decode-far", decoding, frames=100, far=True, **SIZES),
        *(layout_case(f"head-size-{width}", voco, frames=2, **SIZES | {"width": width}) for width in (64, 80, 96, 256)),
    )
}

each_kernel = pytest.mark.parametrize("variant", VARIANTS, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16", "fp16"])
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def drawn(name: str, dtype: torch.dtype = torch.bfloat16) -> Inputs:
    return prepare(CASES[name].inputs(), dtype, "cuda")


def kernel(variant: Variant, inputs: Inputs) -> Run:
    return run(OP, low_level(variant), inputs, [name for name in DIFFERENTIABLE if name in inputs])


def check_against_truth(inputs: Inputs, dtype: torch.dtype, got: Run) -> None:
    """The error budget: truth in float64, yardstick in `dtype`, both by the reference on the GPU."""
    reference, wanted = OPS[OP].reference, tuple(got.grads)
    truth = run(OP, reference, prepare(inputs, torch.float64, "cuda"), wanted).everything
    plain = run(OP, lambda *args: reference(*args, same_dtype=True), prepare(inputs, dtype, "cuda"), wanted).everything
    for name, value in got.everything.items():
        check(name, value, truth[name], plain[name], dtype)


@pytest.fixture
def no_sync() -> Iterator[None]:
    """The fixture's user warms up, then asks for an error at whatever waits for the device."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@each_kernel
@each_case
@each_dtype
def test_values_and_gradients(variant: Variant, case: Case, dtype: torch.dtype) -> None:
    inputs = prepare(case.inputs(), dtype, "cuda")
    with poison():
        got = kernel(variant, inputs)
    check_against_truth(inputs, dtype, got)


@each_dtype
@pytest.mark.parametrize("width", [64, 128, 256])
def test_tiles_of_small_cards(width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a card with 99 KiB a block would run, on the card that is here."""
    call = pytest.importorskip("longreel.triton_kernels.block_sparse_attention_call")
    monkeypatch.setattr(call.Call, "card", (99 * 1024, 40))
    inputs = prepare(layout_case("voco", voco, frames=2, **SIZES | {"width": width}).inputs(), dtype, "cuda")
    got = kernel(Variant(OP, "triton", "cuda"), inputs)
    check_against_truth(inputs, dtype, got)


@each_kernel
@each_dtype
@pytest.mark.parametrize("name", ["voco", "left-padded", "decode"])
def test_the_same_bits_every_time(variant: Variant, name: str, dtype: torch.dtype) -> None:
    inputs = drawn(name, dtype)
    first = kernel(variant, inputs).everything
    for _ in range(10):
        again = kernel(variant, inputs).everything
        assert all(same_bits(again[key], value) for key, value in first.items())


@each_kernel
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("name", ["voco", "decode"])
def test_strides_beyond_32_bits(variant: Variant, name: str, dim: int) -> None:
    inputs = drawn(name)
    wanted = [key for key in DIFFERENTIABLE if key in inputs]
    moved = inputs | {key: far(inputs[key], dim) for key in wanted}
    expected, got = kernel(variant, inputs).everything, kernel(variant, moved).everything
    for key, value in got.items():
        assert same_bits(value, expected[key]), key


@each_kernel
@pytest.mark.parametrize("name", ["voco", "decode"])
def test_no_synchronisation(variant: Variant, name: str, no_sync: None) -> None:
    inputs = drawn(name)
    kernel(variant, inputs)
    leaves = [inputs[key].requires_grad_() for key in ("q", "k", "v")]
    arguments = variant.spec.lower(**inputs)
    torch.cuda.set_sync_debug_mode("error")
    out, _ = low_level(variant)(*arguments)
    torch.autograd.grad(out, leaves, torch.ones_like(out))


@each_kernel
@pytest.mark.parametrize("name", ["voco", "decode"])
def test_cuda_graph(variant: Variant, name: str) -> None:
    """Forward and backward captured once, replayed on new values in the same memory."""
    inputs = drawn(name)

    def step() -> tuple[Tensor, ...]:
        got = kernel(variant, inputs)
        return tuple(got.everything.values())

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for seed in range(3):
        torch.manual_seed(seed)
        inputs["q"].copy_(torch.randn_like(inputs["q"]))
        graph.replay()
        assert all(same_bits(a, b) for a, b in zip(captured, step(), strict=True))
