"""How the work of every system grows with the frames, counted and not timed: an exponent that moves fails here."""

import pytest
from counted_work import counted

from longreel.measure.fit import polynomial, top_exponent
from longreel.models import plan
from longreel.models.setup import setup_of

LINEAR = {"llama-vid": {}, "voco-llama": {}, "video-llama": {"interpolate": True}}
FRAMES = [4, 8, 16, 32]


@pytest.mark.parametrize("system", LINEAR)
def test_linear_systems(system: str) -> None:
    """FLOPs, and calls of every op: none has another exponent than 1."""
    setup = setup_of(system, "tiny", None, "cpu", LINEAR[system], dtype="float32")
    works = [counted(setup, frames, 4) for frames in FRAMES]
    flops = [work.flops for work in works]
    fit = polynomial(FRAMES, flops, 2)
    assert top_exponent(FRAMES, flops, fit.at(0)) == pytest.approx(1, abs=0.01)
    assert abs(fit.of(2)[0]) * FRAMES[-1] < 0.01 * fit.of(1)[0]
    for name in works[-1].calls:
        # Buffers that double, and places that are looked up, come more seldom.
        assert works[-1].calls[name] <= 2.2 * works[-2].calls[name] + 4, name


def test_the_memory_grows_with_the_square() -> None:
    """Rows that see all that was kept: what the layout predicts, and what `plan` says."""
    setup = setup_of("video-xl", "tiny", None, "cpu", {"ratio": 8}, dtype="float32")
    counts = [20, 40, 60, 80]
    works = [counted(setup, frames, 20) for frames in counts]
    flops = polynomial(counts, [work.flops for work in works], 2)
    assert abs(flops.of(2)[0]) * counts[-1] < 0.01 * flops.of(1)[0]
    size, window = setup.preset.language, 10
    vst = 180
    pairs = [work.memory_pairs * 4 * size.head for work in works]
    # Window w sees w times its VST tokens; VST rows alone do in one layer more, no row in the last.
    rows = (size.layers - 2) * (1440 + vst) + vst
    each = 4 * size.heads * size.head * rows * vst
    fit = polynomial(counts, pairs, 2)
    assert fit.of(2)[0] == pytest.approx(each / 2 / window**2, rel=0.01)
    made = [next(s for s in plan("video-xl", "tiny", frames=n).cost.stages if s.name == "memory").flops for n in counts]
    said = polynomial(counts, made, 2)
    assert said.of(2)[0] == pytest.approx(fit.of(2)[0], rel=0.02)
    # Pairs within a window and the projector, which stands in a stage of its own, beside these products.
    project = plan("video-xl", "tiny", frames=1).cost.stages[1].flops
    inside = 4 * size.heads * size.head * (size.layers - 2) * (1440 * 1441 // 2 + 1440 * vst // 2) / window
    assert said.of(1)[0] == pytest.approx(flops.of(1)[0] - project + inside, rel=0.05)
