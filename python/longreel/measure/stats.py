"""Statistics of interleaved samples. Pure functions."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Median and quartiles (inclusive) of `runs` samples; `halves`: by how much the medians of their first and their second half
    disagree, 0.1 for 10 %, None of a single sample."""

    median: float
    low: float
    high: float
    runs: int
    halves: float | None = None

    @property
    def doubt(self) -> float | None:
        """What the medians of two such runs stay within of each other, by what single samples scatter; None of fewer than three.

        Of many independent samples 999 times of 1,000, of six or fewer 97 of 100: a median is off by 1.25 sd / sqrt(runs),
        quartiles are 1.35 sd apart; those of few samples are often closer by chance, which 1 + 5 / runs makes up for in part.
        Rounds that follow each other are more alike than independent ones: at 95 times of 100 one ratio of 36 such moved by
        more than a tenth unmarked, now one of 150 at worst. All found by drawing.
        """
        if self.runs < 3:
            return None
        scatter = 3.29 * math.sqrt(2) * (1.2533 / 1.349) * (self.high - self.low) / self.median / math.sqrt(self.runs)
        return scatter * (1 + 5 / self.runs)

    @property
    def noise(self) -> float:
        """By how much a second run may differ: the larger of `halves` and `doubt`."""
        return max(self.halves or 0.0, self.doubt or 0.0)


def spread(samples: Sequence[float]) -> Spread:
    """Median and quartiles of at least one sample; a single one is all three."""
    if not samples:
        raise ValueError("spread() of no samples: at least one is needed")
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else (*samples,) * 3
    return Spread(median, low, high, len(samples), _disagreement(samples))


def _disagreement(samples: Sequence[float]) -> float | None:
    """Of the medians of both halves, the larger over the smaller, less one."""
    half = len(samples) // 2
    if not half:
        return None
    first, second = statistics.median(samples[:half]), statistics.median(samples[-half:])
    return max(first, second) / max(min(first, second), 1e-12) - 1


def speedup(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """How many times `fast` is faster than `slow`: the ratio of every round's pair, then the median of these.

    A disturbance that lasts longer than a round falls on both sides of a pair and cancels; in a ratio of medians not.
    """
    if len(slow) != len(fast):
        raise ValueError(f"speedup() pairs rounds: {len(slow)} samples against {len(fast)}")
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def turn_order(turn: int, count: int) -> list[int]:
    """The order of `count` variants in round `turn`: rotated every round, reversed every other, so that none always
    follows the same neighbour (and inherits its caches or its heat)."""
    order = [(turn // 2 + i) % count for i in range(count)]
    return order[::-1] if turn % 2 else order


def calls_per_sample(seconds: float, min_time: float) -> int:
    """Calls to time together so that a sample lasts `min_time`, from the `seconds` that one call took."""
    return max(1, math.ceil(min_time / max(seconds, 1e-9)))
