from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longreel.data import FrameSpec

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("text", "rate", "count"),
    [
        ("fps:1", Fraction(1), None),
        ("fps:0.5", Fraction(1, 2), None),
        ("fps:30000/1001", Fraction(30000, 1001), None),
        ("uniform:8", None, 8),
        ("fps:1,max=128", Fraction(1), 128),
        ("fps:1, max=128", Fraction(1), 128),
    ],
)
def test_parses(text: str, rate: Fraction | None, count: int | None) -> None:
    assert FrameSpec.parse(text) == FrameSpec(rate, count)
    assert FrameSpec.parse(str(FrameSpec.parse(text))) == FrameSpec(rate, count)


@pytest.mark.parametrize(
    "text",
    ["", "fps", "fps:", "fps:0", "fps:-1", "fps:1e3", "fps:1/0", "fps:2000", "uniform:0", "uniform:1.5",
     "uniform:9999999", "fps:1,max=0", "fps:1,min=3", "every:2", "fps:1;max=3", "fps:nan", "fps:²", None, 3],
)  # fmt: skip
def test_bad_specs_give_one_clear_line(text: object) -> None:
    with pytest.raises(ValueError, match=r"fps:RATE, uniform:COUNT, fps:RATE,max=COUNT, keys or keys:RATE") as error:
        FrameSpec.parse(text)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_max_switches_to_uniform_only_when_needed() -> None:
    spec = FrameSpec.parse("fps:1,max=128")
    assert spec.frames(Fraction(100)) == 100
    assert spec.frames(Fraction(128)) == 128
    assert spec.frames(Fraction(257, 2)) == 128
    assert spec.frames(Fraction(3600)) == 128
    assert spec.step(Fraction(3600)) == Fraction(3600, 128)


@given(st.integers(1, 300), st.integers(1, 400))
def test_uniform_on_a_constant_rate_is_the_floor_rule(count: int, frames: int) -> None:
    step = FrameSpec.parse(f"uniform:{count}").step(Fraction(frames, 25))
    assert [i * step * 25 // 1 for i in range(count)] == [i * frames // count for i in range(count)]
    assert FrameSpec.parse(f"uniform:{count}").frames(Fraction(frames, 25)) == count
