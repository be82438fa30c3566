"""The error budget passes what it should and says what is wrong otherwise."""

import math

import pytest
import torch

from longreel.testing import Errors, allowed, check, errors
from longreel.testing.budget import FLOORS

pytestmark = pytest.mark.fast


def test_norms() -> None:
    truth = torch.tensor([3.0, -4.0, 0.0], dtype=torch.float64)
    assert errors(truth, truth) == Errors(0.0, 0.0)
    found = errors(truth + torch.tensor([0.0, 0.4, 0.0]), truth)
    assert found.max_rel == pytest.approx(0.1)
    assert found.rms_rel == pytest.approx(0.4 / 5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite(bad: float) -> None:
    truth = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert errors(torch.tensor([1.0, bad]), truth).max_rel == math.inf


def test_infinities_of_the_truth() -> None:
    truth = torch.tensor([-math.inf, 2.0], dtype=torch.float64)
    assert errors(truth.float(), truth) == Errors(0.0, 0.0)
    for wrong in (math.inf, -1e30, math.nan):
        assert errors(torch.tensor([wrong, 2.0]), truth).max_rel == math.inf


def test_zero_truth() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    assert errors(zero.float(), zero) == Errors(0.0, 0.0)
    assert errors(zero + 1e-9, zero).max_rel == math.inf
    assert errors(zero + 1e-9, zero, unit=1.0).max_rel == pytest.approx(1e-9)


def test_empty() -> None:
    assert errors(torch.empty(0, 3), torch.empty(0, 3, dtype=torch.float64)) == Errors(0.0, 0.0)


def test_allowed() -> None:
    assert allowed(Errors(0.0, 0.0), torch.bfloat16) == FLOORS[torch.bfloat16] == Errors(1.6e-2, 4e-3)
    assert allowed(Errors(1.0, 1e-9), torch.float32) == Errors(1.5, 5e-7)
    for broken in (Errors(math.inf, math.inf), Errors(math.nan, 0.0)):
        assert allowed(broken, torch.float32) == FLOORS[torch.float32]


def test_check() -> None:
    truth = torch.linspace(1, 2, 10, dtype=torch.float64)
    check("x", truth.float(), truth, truth.float(), torch.float32)
    got = truth.float()
    got[7] += 1e-3
    with pytest.raises(
        AssertionError, match=r"x: max_rel 5.0\de-04, .*allowed max_rel 2.00e-06.*worst at \[7\]: 1.77878"
    ) as said:
        check("x", got, truth, truth.float(), torch.float32)
    assert "\n" not in str(said.value)
    check("x", got, truth, truth.float() + 1e-3, torch.float32)
    got[3] = math.nan
    with pytest.raises(AssertionError, match=r"worst at \[3\]: nan"):
        check("x", got, truth, truth.float() + 1e-3, torch.float32)
    with pytest.raises(AssertionError, match=r"worst at \[3\]: nan"):
        check("x", got, truth, got, torch.float32)
    with pytest.raises(AssertionError, match=r"shape \(9,\), the truth has \(10,\)"):
        check("x", got[1:], truth, truth.float(), torch.float32)
