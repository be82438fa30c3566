"""Poison, determinism, far offsets, layouts: each tool catches the kernel it is for."""

import os
import resource
from itertools import count

import pytest
import torch

from longreel.testing import assert_deterministic, far, hour, poison
from longreel.testing.determinism import num_threads, same_bits
from longreel.testing.runner import cpu_isa, layouts, prepare

pytestmark = pytest.mark.fast


def test_poison_shows_unwritten_memory() -> None:
    enabled = torch.are_deterministic_algorithms_enabled()
    with poison():
        assert torch.empty(10).isnan().all()
        assert torch.empty(10, dtype=torch.bfloat16).isnan().all()
        assert torch.ones(3).new_empty(4).isnan().all()
        assert os.environ["LONGREEL_POISON"] == "1"
    assert torch.are_deterministic_algorithms_enabled() == enabled
    assert "LONGREEL_POISON" not in os.environ


def test_same_bits() -> None:
    nan = torch.tensor([float("nan"), 0.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    assert same_bits(torch.zeros(4, 4).t(), torch.zeros(4, 4))


def test_determinism_over_runs_and_threads() -> None:
    x = torch.randn(100)
    assert_deterministic(lambda: {"sum": x.sum()})
    counter = count()
    with pytest.raises(AssertionError, match="x changed: run 2 with 1 threads"):
        assert_deterministic(lambda: {"x": torch.tensor(next(counter))})
    with pytest.raises(AssertionError, match="x changed: run 1 with 3 threads"):
        assert_deterministic(lambda: {"x": torch.tensor(torch.get_num_threads() // 3)})


def test_num_threads_returns() -> None:
    before = torch.get_num_threads()
    with num_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("dim", [0, 1])
def test_far_passes_31_bits_and_touches_little(dim: int) -> None:
    x = torch.randn(3, 5, 8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    moved = far(x, dim)
    assert torch.equal(moved, x)
    assert (x.shape[dim] - 1) * moved.stride(dim) > 2**31
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB
    with pytest.raises(ValueError, match="needs at least 2"):
        far(x[:1], 0)


def test_hour_reads_as_zeros() -> None:
    last = torch.randn(2, 16, 64)
    patches = hour(last, frames=3000)
    assert patches.shape == (3000, 16, 64)
    assert patches.is_contiguous()
    assert torch.equal(patches[-2:], last)
    assert not patches[:-2].any()
    with pytest.raises(ValueError, match="at most 1; given 2"):
        hour(last, frames=1)


def test_layouts() -> None:
    x = torch.randn(3, 4, 5)
    found = layouts(x)
    assert all(torch.equal(view, x) for name, view in found.items() if name != "repeated")
    assert torch.equal(found["repeated"], x[:1].expand_as(x))
    assert {name: view.stride() for name, view in found.items()} == {
        "offset": (20, 5, 1),
        "gaps": (32, 8, 1),
        "stepped": (40, 10, 2),
        "swapped": (1, 3, 12),
        "repeated": (0, 5, 1),
    }
    assert found["offset"].storage_offset() == 3
    assert layouts(torch.empty(0, 3)) == {}


def test_cpu_isa_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGREEL_CPU_ISA", raising=False)
    with cpu_isa("portable"):
        assert os.environ["LONGREEL_CPU_ISA"] == "portable"
    assert "LONGREEL_CPU_ISA" not in os.environ
    monkeypatch.setenv("LONGREEL_CPU_ISA", "avx2")
    with cpu_isa(None):
        assert os.environ["LONGREEL_CPU_ISA"] == "avx2"


def test_prepare_copies_rounds_and_asks_for_gradients() -> None:
    inputs = {"x": torch.randn(3, dtype=torch.float64), "ids": torch.arange(3), "mode": "mean"}
    ready = prepare(inputs, torch.bfloat16, grad=("x",))
    assert (ready["x"].dtype, ready["ids"].dtype, ready["mode"]) == (torch.bfloat16, torch.int64, "mean")
    assert ready["x"].requires_grad
    assert not ready["ids"].requires_grad
    assert ready["ids"].data_ptr() != inputs["ids"].data_ptr()
