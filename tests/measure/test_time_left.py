import pytest

from longreel.measure.time_left import TimeLeft

pytestmark = pytest.mark.fast


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_share_of_what_is_left_and_never_less_than_the_least() -> None:
    clock = Clock()
    left = TimeLeft.of(60.0, clock)
    assert (left.seconds, left.limit(), left.limit(share=0.5), left.limit(share=0.1, least=20.0)) == (60, 60, 30, 20)
    clock.now += 45
    assert (left.limit(least=15.0), left.limit(least=15.1)) == (15.0, None)
    clock.now += 15
    assert left.limit() is None


def test_shares_are_equal_parts_of_what_the_others_left() -> None:
    clock = Clock()
    left, given = TimeLeft.of(60.0, clock), list[float]()
    for part, takes in zip(left.shared(3), (5.0, 20.0, 1.0), strict=True):
        given.append(part.seconds)
        clock.now += takes
    assert given == pytest.approx([20.0, 27.5, 35.0])
