"""Growth of a measured quantity with a count: a polynomial by least squares, with intervals, and the slope at its end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Student's t, two-sided 95 %, by degrees of freedom from 1 on; beyond them its expansion.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Fit:
    """y = sum of coefficients[i] * x ** powers[i]; a 95 % interval of each is coefficient -+ half, NaN where there are no more
    points than coefficients."""

    powers: tuple[int, ...]
    coefficients: tuple[float, ...]
    halves: tuple[float, ...]

    def at(self, x: float) -> float:
        return sum(c * x**power for power, c in zip(self.powers, self.coefficients, strict=True))

    def of(self, power: int) -> tuple[float, float]:
        """The coefficient of x ** power and half its interval; 0 and NaN where it was not fitted."""
        if power not in self.powers:
            return 0.0, math.nan
        place = self.powers.index(power)
        return self.coefficients[place], self.halves[place]


def polynomial(x: Sequence[float], y: Sequence[float], degree: int, *, relative: bool = True) -> Fit:
    """Of at most this degree, and of no more coefficients than there are points.

    relative: errors grow with y, as those of times do; else they are alike everywhere. The intervals come from the scatter of the
    points about the fit.

    Raises:
        ValueError: fewer than two different x, or as many y as x are not there.
    """
    if len(x) != len(y) or len(set(x)) < 2:
        raise ValueError(f"a fit takes two different counts at least, and a value each; given {len(x)} and {len(y)}")
    powers = tuple(range(min(degree + 1, len(set(x)))))
    counts, values = np.asarray(x, np.float64), np.asarray(y, np.float64)
    largest = np.abs(values).max() or 1.0
    weights = 1 / np.maximum(np.abs(values), 1e-3 * largest) if relative else np.full(len(values), 1 / largest)
    # Columns of about 1: squares of an hour's frames beside ones would cost half the digits.
    scales = counts.max() ** np.array(powers, np.float64)
    matrix = weights[:, None] * counts[:, None] ** np.array(powers) / scales
    solved = np.linalg.lstsq(matrix, weights * values, rcond=None)[0]
    free = len(x) - len(powers)
    halves = np.full(len(powers), math.nan)
    if free > 0:
        scatter = np.square(matrix @ solved - weights * values).sum() / free
        halves = _t95(free) * np.sqrt(scatter * np.diag(np.linalg.inv(matrix.T @ matrix))) / scales
    return Fit(powers, tuple((solved / scales).tolist()), tuple(halves.tolist()))


def top_exponent(x: Sequence[float], y: Sequence[float], constant: float) -> float:
    """p of y - constant ~ x ** p over the top octave: from the last count that is at most half the largest to the largest; NaN
    where one of the two does not exceed the constant, or there is no such count."""
    points = sorted(zip(x, y, strict=True))
    (high, top), low = points[-1], [point for point in points if 2 * point[0] <= points[-1][0]]
    if not low:
        return math.nan
    begin, below = low[-1]
    if below <= constant or top <= constant:
        return math.nan
    return math.log((top - constant) / (below - constant)) / math.log(high / begin)


def _t95(free: int) -> float:
    return _T95[free - 1] if free <= len(_T95) else 1.96 + 2.37 / free + 2.8 / free**2
