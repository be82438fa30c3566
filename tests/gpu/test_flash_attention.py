"""The flash backend on CUDA: torch's own flash attention and, where it is installed, flash-attn's, over one decomposition."""

from collections.abc import Callable

import pytest
import torch
from gpu_cases import CASES as EVERY
from gpu_cases import check_against_truth
from gpu_cases import drawn as drawn_from
from torch import Tensor

from longreel import block_sparse_attention
from longreel.ops.flash import attend as attending
from longreel.ops.flash.varlen import PACKAGE, TORCH, Varlen
from longreel.ops.registry import OPS
from longreel.testing import far
from longreel.testing.cases.case import Inputs
from longreel.testing.determinism import same_bits
from longreel.testing.runner import Run, Variant, run

DIFFERENTIABLE = OPS["block_sparse_attention"].differentiable
OP = "block_sparse_attention"
CASES = {case.name: case for case in EVERY[OP]}
FLASH = Variant(OP, "flash", "cuda")
# in grouped order, or with a window: refused
TAKEN = [name for name in CASES if name not in ("vst-global", "window")]

each_case = pytest.mark.parametrize("name", TAKEN)
few_cases = pytest.mark.parametrize("name", ["voco", "left-padded", "decode"])
each_dtype = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])


@pytest.fixture(params=[TORCH, PACKAGE], ids=["torch", "flash-attn"], autouse=True)
def offered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Varlen:
    if request.param is PACKAGE:
        pytest.importorskip("flash_attn", minversion="2.7", reason="flash-attn 2.7 or later is not installed")
    monkeypatch.setattr(attending, "varlen", lambda device: request.param)
    return request.param


def drawn(name: str, dtype: torch.dtype = torch.bfloat16) -> Inputs:
    return drawn_from(CASES[name], dtype)


def flash(inputs: Inputs) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda *args: attending.attend(*args[:5], inputs["layout"], args[-1])


def kernel(inputs: Inputs) -> Run:
    return run(OP, flash(inputs), inputs, [name for name in DIFFERENTIABLE if name in inputs])


@each_case
@each_dtype
def test_values_and_gradients(name: str, dtype: torch.dtype) -> None:
    inputs = drawn(name, dtype)
    check_against_truth(FLASH, inputs, dtype, kernel(inputs))


@pytest.mark.parametrize("name", ["vst-global", "window"])
def test_refuses_with_a_reason(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"backend='flash' (takes rows in position order|has no sliding windows)"):
        block_sparse_attention(**drawn(name), backend="flash")


@few_cases
@each_dtype
def test_the_same_bits_every_time(name: str, dtype: torch.dtype) -> None:
    inputs = drawn(name, dtype)
    first = kernel(inputs).everything
    for _ in range(10):
        again = kernel(inputs).everything
        assert all(same_bits(again[key], value) for key, value in first.items())


@few_cases
@pytest.mark.parametrize("dim", [1, 2])
def test_strides_beyond_32_bits(name: str, dim: int) -> None:
    inputs = drawn(name)
    moved = inputs | {key: far(inputs[key], dim) for key in DIFFERENTIABLE if key in inputs}
    expected, got = kernel(inputs).everything, kernel(moved).everything
    for key, value in got.items():
        assert same_bits(value, expected[key]), key


@few_cases
def test_no_synchronisation(name: str) -> None:
    inputs = drawn(name)
    kernel(inputs)
    leaves = [inputs[key].requires_grad_() for key in ("q", "k", "v")]
    try:
        torch.cuda.set_sync_debug_mode("error")
        out = block_sparse_attention(**inputs | {"return_lse": False}, backend="flash")
        torch.autograd.grad(out, leaves, torch.ones_like(out))
    finally:
        torch.cuda.set_sync_debug_mode("default")
