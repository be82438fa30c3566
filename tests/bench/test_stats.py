"""Statistics of interleaved samples."""

import numpy as np
import pytest

from longreel.measure.stats import Spread, calls_per_sample, speedup, spread, turn_order

pytestmark = pytest.mark.fast


def test_spread_is_median_and_quartiles() -> None:
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5, pytest.approx(0.4))


def test_halves_disagree_by_their_medians() -> None:
    assert spread([1.0, 1.0, 9.0, 2.0, 2.0]).halves == pytest.approx(1.0)
    assert spread([2.0, 1.0]).halves == pytest.approx(1.0)
    assert spread([1.0]).halves is None


@pytest.mark.parametrize("runs", [3, 4, 6, 10, 21])
def test_two_runs_stay_within_their_doubt(runs: int) -> None:
    random, held = np.random.default_rng(0), 0
    for _ in range(400):
        one, two = (spread((20 + 0.3 * random.standard_normal(runs)).tolist()) for _ in range(2))
        assert one.doubt is not None
        held += abs(one.median - two.median) <= one.doubt * one.median
    assert held / 400 > 0.96
    assert spread([1.0, 2.0]).doubt is None


def test_rounds_that_follow_each_other_do_not_move_unmarked() -> None:
    """Rounds side by side are alike, as a machine's moods last longer than one: of 500 pairs of runs at most one in 100 differs
    by more than a tenth where neither is marked."""
    random, unmarked = np.random.default_rng(0), 0
    for _ in range(500):
        runs = []
        for _ in range(2):
            drawn = random.standard_normal(10)
            for before in range(9):
                drawn[before + 1] = 0.5 * drawn[before] + 0.75**0.5 * drawn[before + 1]
            runs.append(spread((1 + 0.06 * drawn).tolist()))
        low, high = sorted(run.median for run in runs)
        unmarked += high > 1.1 * low and all(run.noise <= 0.1 for run in runs)
    assert unmarked <= 5


def test_noise_is_the_larger_of_halves_and_scatter() -> None:
    # As a bf16 row that changed by a quarter from run to run, unsaid: quiet halves, restless rounds.
    restless = spread([1.0, 1.3] * 6)
    assert restless.halves == 0.0
    assert restless.noise == restless.doubt > 0.1
    assert spread([1.0, 1.0, 1.0, 1.5, 1.5, 1.5]).noise >= 0.5


def test_spread_of_one_sample() -> None:
    assert spread([2.0]) == Spread(2.0, 2.0, 2.0, 1)


def test_spread_of_nothing_says_so() -> None:
    with pytest.raises(ValueError, match="at least one"):
        spread([])


def test_speedup_pairs_rounds() -> None:
    # the machine was three times slower in the second half: the pairs do not notice, the medians would
    slow, fast = [2.0, 2.0, 6.0, 6.0], [1.0, 1.0, 3.0, 3.0]
    assert speedup(slow, fast) == Spread(2.0, 2.0, 2.0, 4, 0.0)


def test_speedup_needs_equal_rounds() -> None:
    with pytest.raises(ValueError, match="3 samples against 2"):
        speedup([1.0] * 3, [1.0] * 2)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_turn_order_runs_everyone_once_and_starts_with_each(count: int) -> None:
    orders = [turn_order(turn, count) for turn in range(2 * count)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert {order[0] for order in orders} == set(range(count))


def test_turn_order_changes_the_neighbour_before() -> None:
    before = {tuple(turn_order(turn, 3)[i : i + 2]) for turn in range(6) for i in range(2)}
    assert {pair[0] for pair in before if pair[1] == 0} == {1, 2}


@pytest.mark.parametrize(("seconds", "min_time", "calls"), [(1.0, 0.01, 1), (0.001, 0.01, 10), (0.003, 0.01, 4)])
def test_calls_per_sample(seconds: float, min_time: float, calls: int) -> None:
    assert calls_per_sample(seconds, min_time) == calls


def test_calls_per_sample_of_a_call_too_short_to_time() -> None:
    assert calls_per_sample(0.0, 0.01) > 1
