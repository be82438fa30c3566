"""What a file says of the model that made it: compared by its sizes, whatever else stands there."""

import time
from pathlib import Path

import pytest

from longreel.data import MediaError
from longreel.models.memory import check_made_by, made_by
from longreel.models.voco_llama import PRESETS

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("text", ["x" * 10**6, "a=1" * 10**5, "(" * 10**5, "", "image=1", "_=_"])
def test_sizes_of_others_are_refused_at_once(text: str) -> None:
    preset = PRESETS["tiny"]
    expected = made_by("voco-llama", preset)
    check_made_by(Path("x"), dict(expected), expected, preset)
    began = time.process_time()
    with pytest.raises(MediaError, match="made with tower") as refused:
        check_made_by(Path("x"), expected | {"tower": text}, expected, preset)
    assert time.process_time() - began < 2
    assert len(str(refused.value)) < 1000
