"""Errors gathered in pieces, and the verdict."""

import math

import pytest
import torch

from longreel.bench.check import ErrorSum, Verdict, judge
from longreel.testing.budget import FLOORS, errors

pytestmark = pytest.mark.fast


def gathered(value: torch.Tensor, truth: torch.Tensor, piece: int = 3) -> ErrorSum:
    total = ErrorSum()
    for start in range(0, len(truth), piece):
        total.add(value[start : start + piece], truth[start : start + piece])
    return total


def test_pieces_give_the_errors_of_the_whole() -> None:
    truth = torch.randn(10, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = (truth * (1 + 1e-3)).bfloat16()
    whole, pieces = errors(value, truth), gathered(value, truth).errors
    assert pieces.max_rel == pytest.approx(whole.max_rel)
    assert pieces.rms_rel == pytest.approx(whole.rms_rel)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 9])
def test_what_is_not_finite_is_infinitely_wrong(bad: float, at: int) -> None:
    truth = torch.ones(10, 2, dtype=torch.float64)
    value = truth.clone()
    value[at, 1] = bad
    found = gathered(value, truth)
    assert found.errors.max_rel == found.errors.rms_rel == math.inf
    assert judge({"out": found}, {"out": gathered(truth, truth)}, torch.float32).why is not None


def test_nothing_compared_is_no_error() -> None:
    nothing = gathered(torch.empty(0, 4), torch.empty(0, 4))
    assert judge({"out": nothing}, {"out": nothing}, torch.float32).why is None


def test_verdict_names_the_worst_error() -> None:
    truth = torch.ones(8, 4, dtype=torch.float64)
    floor = FLOORS[torch.float32].rms_rel
    sums = {"good": gathered(truth, truth), "bad": gathered(truth * (1 + 3 * floor), truth)}
    verdict = judge(sums, {name: gathered(truth, truth) for name in sums}, torch.float32)
    assert verdict.error == pytest.approx(3, rel=1e-3)
    assert verdict.why is not None
    assert verdict.why.startswith("bad has rms error")


def test_budget_follows_the_yardstick() -> None:
    truth = torch.ones(8, 4, dtype=torch.float64)
    error, yardstick = gathered(truth * (1 + 1e-4), truth), gathered(truth * (1 + 2e-4), truth)
    assert judge({"out": error}, {"out": yardstick}, torch.float32).error == pytest.approx(1 / 3, rel=1e-3)


def test_verdict_holds_up_to_one() -> None:
    assert Verdict(1.0, "edge").why is None
    assert Verdict(math.nan, "poison").why == "poison"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("names", [("good", "bad"), ("bad", "good")])
def test_a_broken_yardstick_allows_nothing(bad: float, names: tuple[str, str]) -> None:
    truth = torch.ones(4, 2, dtype=torch.float64)
    broken = truth.clone()
    broken[1, 1] = bad
    sums = {name: gathered(truth if name == "good" else broken, truth) for name in names}
    verdict = judge(sums, sums, torch.float32)
    assert verdict.why is not None
    assert verdict.why.startswith("bad")
    # nor does a truth that is no number
    of_nan = {name: gathered(truth, truth if name == "good" else broken) for name in names}
    assert judge(of_nan, of_nan, torch.float32).why is not None


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2\), the truth has \(4, 2\)"):
        ErrorSum().add(torch.ones(1, 2), torch.ones(4, 2))
