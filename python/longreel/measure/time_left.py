"""What still fits into the time that several jobs share, one after the other. Nothing but Python: it can be run by its path."""

import time
from collections.abc import Callable, Iterator


class TimeLeft:
    """Until `deadline` on `clock`."""

    def __init__(self, deadline: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._deadline, self._clock = deadline, clock

    @classmethod
    def of(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> "TimeLeft":
        """From now on."""
        return cls(clock() + seconds, clock)

    @property
    def seconds(self) -> float:
        return self._deadline - self._clock()

    def limit(self, *, share: float = 1.0, least: float = 0.0) -> float | None:
        """Seconds for the next job: its share of what is left, `least` at the least; None where not even that is left."""
        left = self.seconds
        return None if left < least or left <= 0 else max(least, share * left)

    def shared(self, jobs: int) -> "Iterator[TimeLeft]":
        """An equal share for each of so many jobs, of what is left when its turn comes."""
        for following in range(jobs, 0, -1):
            now = self._clock()
            yield TimeLeft(now + (self._deadline - now) / following, self._clock)
