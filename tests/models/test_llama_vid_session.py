from pathlib import Path

import pytest
import torch

from longreel.measure.memory import PeakMeter
from longreel.models.llama_vid.session import TokenBuffer
from longreel.models.record import OURS, REFERENCE, RunRecord

pytestmark = pytest.mark.fast


def test_one_buffer_from_the_start() -> None:
    kept, parts = TokenBuffer(100), [torch.randn(2, 8, 3) for _ in range(5)]
    places = set()
    for part in parts:
        kept.add(part, 4, 20)
        places.add(kept.whole().data_ptr())
    assert torch.equal(kept.whole(), torch.cat(parts, 1))
    assert len(places) == 1


@pytest.mark.parametrize("expected", [None, 1, 10**12])
def test_the_header_may_say_nothing_or_lie(expected: int | None) -> None:
    kept, parts = TokenBuffer(100), [torch.randn(2, 8, 3) for _ in range(5)]
    for part in parts:
        kept.add(part, 4, expected)
    assert torch.equal(kept.whole(), torch.cat(parts, 1))


def test_too_many_tokens_stop_on_the_way() -> None:
    kept = TokenBuffer(20)
    kept.add(torch.zeros(1, 16, 3), 8, None)
    with pytest.raises(
        ValueError, match="24 tokens so far are more than the 20 positions that the language model has left"
    ):
        kept.add(torch.zeros(1, 8, 3), 4, None)


def test_shared_stages_count_for_every_path() -> None:
    record = RunRecord("s", "p", ("?",))
    record.seconds["tower"]["shared"] = 3.0
    record.seconds["compress"][OURS] = 1.0
    record.seconds["compress"][REFERENCE] = 5.0
    assert (record.total(), record.total(REFERENCE)) == (4.0, 8.0)
    assert record.stage("compress", REFERENCE) == 5.0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the high-water mark is reset on Linux only")
@pytest.mark.slow
def test_peaks_are_separate() -> None:
    meter = PeakMeter()
    with meter("small"):
        pass
    with meter("large"):
        torch.ones(2**26).sum()
    with meter("small"):
        pass
    peaks = meter.take()
    assert peaks["large"] > peaks["small"] + 200 * 2**20
    assert meter.take() == {}
