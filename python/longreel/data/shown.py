"""From pictures with times to samples: which picture is on screen at which sampling time."""

from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

Sample = tuple[np.ndarray, float]


class Spanned:
    """Media of which a part may be wanted: samples of number span[0] to before span[1], None: to the end.

    begins: the number of the first sample that `samples` gives.
    """

    span: tuple[int, int | None] = (0, None)

    @property
    def begins(self) -> int:
        return 0


class Shown:
    """The picture on screen; made at most once, and only if a sampling time falls on it."""

    def __init__(self, make: Callable[[], np.ndarray], start: Fraction) -> None:
        self._make, self._start = make, start
        self._picture: np.ndarray | None = None

    def until(self, step: Fraction, taken: int, end: Fraction, most: int | None) -> Iterator[Sample]:
        """One sample for each sampling time `taken * step`, `(taken + 1) * step`, ... below `end`, at most `most`."""
        while taken * step < end and taken != most:
            if self._picture is None:
                self._picture = self._make()
            yield self._picture, float(self._start)
            taken += 1
