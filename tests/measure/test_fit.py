import math

import numpy as np
import pytest

from longreel.measure.fit import polynomial, top_exponent

pytestmark = pytest.mark.fast

FRAMES = [64, 128, 256, 512, 1024, 2048, 3600]


def test_coefficients_and_their_intervals() -> None:
    exact = polynomial(FRAMES, [3 + 0.02 * f + 1e-6 * f**2 for f in FRAMES], 2)
    assert exact.coefficients == pytest.approx((3, 0.02, 1e-6), rel=1e-9)
    assert max(exact.halves) < 1e-9
    assert exact.at(100) == pytest.approx(3 + 2 + 1e-2)
    assert exact.of(2)[0] == pytest.approx(1e-6)


def test_intervals_hold_as_often_as_they_say() -> None:
    """95 % of them, over noise in proportion to the times."""
    noise, held, turns = np.random.default_rng(0), np.zeros(3), 400
    truth = np.array([2.0, 0.01, 2e-6])
    for _ in range(turns):
        times = [(truth @ [1, f, f**2]) * (1 + 0.02 * noise.standard_normal()) for f in FRAMES]
        found = polynomial(FRAMES, times, 2)
        held += np.abs(np.array(found.coefficients) - truth) <= np.array(found.halves)
    assert (held / turns > 0.92).all()
    assert (held / turns < 0.98).all()


def test_few_points() -> None:
    two = polynomial([10, 20], [1.0, 2.0], 2)
    assert two.powers == (0, 1)
    assert two.coefficients == pytest.approx((0, 0.1))
    assert all(map(math.isnan, two.halves))
    assert two.of(2)[0] == 0
    assert polynomial([10, 20], [0.0, 0.0], 2).coefficients == (0, 0)
    for x, y in (([10], [1.0]), ([10, 10], [1.0, 2.0]), ([10, 20], [1.0])):
        with pytest.raises(ValueError, match="two different counts"):
            polynomial(x, y, 1)


@pytest.mark.parametrize("power", [0.9, 1.0, 1.1, 2.0])
def test_the_exponent_over_the_top_octave(power: float) -> None:
    times = [5 + 0.01 * f**power for f in FRAMES]
    assert top_exponent(FRAMES, times, 5) == pytest.approx(power)
    assert top_exponent(FRAMES[::-1], times[::-1], 5) == pytest.approx(power)


def test_an_octave_that_is_not_there() -> None:
    assert math.isnan(top_exponent([64, 100], [1.0, 2.0], 0.0))
    assert math.isnan(top_exponent([64, 128], [1.0, 2.0], 1.5))
