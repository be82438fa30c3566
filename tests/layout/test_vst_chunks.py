"""Video-XL's chunks against its rules, written out window by window: counts, places, positions, memory, and drawn ratios."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from longreel.layout import RatioDraw, VideoLayout, global_positions, kinds, positions, query_positions, slots
from longreel.layout.segments import PREFIX, TEXT, VISION, VST

pytestmark = pytest.mark.fast


@dataclass
class Memory:
    """The published memory: what stands in it, and the rows of every step with the positions they had there."""

    kind: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    # rows, in the order fed, that are kept
    cached: list[int] = field(default_factory=list)
    remainder: int = 0

    def step(self, rows: list[int], keep: list[bool]) -> None:
        first = len(self.cached)
        for i, (kind, stays) in enumerate(zip(rows, keep, strict=True)):
            if stays:
                self.cached.append(len(self.kind))
            self.kind.append(kind)
            self.position.append(first + i)

    def window(self, raw: int, ratio: int) -> None:
        count = (raw + self.remainder) // ratio
        rows, left = [], raw
        for i in range(raw + count):
            is_vst = i % (ratio + 1) == ratio - self.remainder
            rows.append(VST if is_vst else VISION)
            left -= not is_vst
        assert left == 0, "as many VST as were counted"
        self.remainder = (raw + self.remainder) % ratio
        self.step(rows, [kind == VST for kind in rows])


def published(prefix: int, chunks: list[tuple[int, int]], text: int, window: int) -> Memory:
    memory = Memory()
    memory.step([PREFIX] * prefix, [True] * prefix)
    for raw, ratio in chunks:
        memory.window(raw, ratio)
    for at in range(0, text, window):
        rows = min(window, text - at)
        memory.step([TEXT] * rows, [True] * rows)
    return memory


def check(layout: VideoLayout, memory: Memory) -> None:
    assert kinds(layout)[0].tolist() == memory.kind
    assert positions(layout)[0].tolist() == memory.position
    slot = slots(layout)[0]
    assert np.flatnonzero(slot >= 0).tolist() == memory.cached
    # An entry of the memory has its own number as its position for ever.
    assert slot[memory.cached].tolist() == list(range(len(memory.cached)))
    not_text = [kind != TEXT for kind in memory.kind]
    assert global_positions(layout)[0].tolist() == list(range(sum(not_text[row] for row in memory.cached)))
    grouped = [
        p for want in (False, True) for p, k in zip(memory.position, memory.kind, strict=True) if (k == VST) == want
    ]
    assert query_positions(layout.grouped())[0].tolist() == grouped


# Sizes whose carried tokens never exceed the next ratio: the published code fails on those, ours refuses them.
@pytest.mark.parametrize("ratio", [1, 2, 3, 4, 5, 7, 8, 12, 16, 31])
@pytest.mark.parametrize(("visual", "window"), [(0, 48), (24, 48), (144, 48), (150, 48), (131, 48), (96, 30)])
def test_one_ratio_for_every_chunk(visual: int, window: int, ratio: int) -> None:
    chunks = [(min(window, visual - at), ratio) for at in range(0, visual, window)]
    layout = VideoLayout.vst(visual=visual, chunk=window, ratio=ratio, prefix=3, text=70)
    check(layout, published(3, chunks, 70, window))


def test_any_length_and_ratio_per_chunk() -> None:
    rng, tried = np.random.default_rng(5), 0
    for _ in range(120):
        chunks = [(int(rng.integers(1, 40)), int(rng.integers(1, 18))) for _ in range(int(rng.integers(1, 6)))]
        prefix, text = int(rng.integers(0, 5)), int(rng.integers(0, 60))
        carried, refused = 0, False
        for raw, ratio in chunks:
            refused |= carried > ratio
            carried = (raw + carried) % ratio
        if refused:
            with pytest.raises(ValueError, match="visual tokens are carried into a chunk of ratio"):
                VideoLayout.vst(ratio=chunks, prefix=prefix, text=text)
            continue
        tried += 1
        check(VideoLayout.vst(ratio=chunks, prefix=prefix, text=text), published(prefix, chunks, text, 24))
    assert tried > 30


def expected_draws(ratios: list[int], draw: str, chunks: list[int], rng: np.random.Generator, total: int) -> list[int]:
    """The rule of every mix, one window after another."""
    drawn: list[int] = []
    remembered: list[int] = []
    for number, length in enumerate(chunks):
        valid = [r for r in ratios if length >= r and length % r == 0]
        if len(ratios) == 1:
            drawn.append(ratios[0])
        elif draw == "step-random":
            drawn.append(int(rng.choice(valid)))
        elif draw == "instance-random":
            remembered = remembered or [int(rng.choice(valid))]
            drawn.append(remembered[0])
        elif draw == "sequence":
            remembered = remembered or valid
            drawn.append(remembered[number % len(remembered)])
        else:
            ahead = int(draw.split("-")[1])
            able = [r for r in valid if (512 - length) * r + length >= total + ahead]
            remembered = remembered or [min(able) if able else max(valid)]
            drawn.append(remembered[0])
    return drawn


@pytest.mark.parametrize("ratios", [[8], [7], [2, 4, 8], [8, 2, 4], [2, 4, 8, 12, 16], [5, 32, 2]])
@pytest.mark.parametrize("draw", ["step-random", "instance-random", "sequence", "adapt-0", "adapt-700", "adapt-9999"])
@pytest.mark.parametrize("visual", [48, 144, 16, 480, 496])
def test_every_published_draw(ratios: list[int], draw: str, visual: int) -> None:
    ours, theirs = np.random.default_rng(42), np.random.default_rng(42)
    for _ in range(3):
        # The generator goes on from video to video.
        lengths = [min(48, visual - at) for at in range(0, visual, 48)]
        wanted = expected_draws(ratios, draw, lengths, theirs, 6 + visual + 9)
        layout = VideoLayout.vst(
            visual=visual, chunk=48, ratio_mix=ratios, draw=draw, seed=ours, max_positions=512, prefix=6, text=9
        )
        assert [segment.ratio for segment in layout.samples[0][0].segments[1:-1]] == wanted
        assert layout == VideoLayout.vst(ratio=list(zip(lengths, wanted, strict=True)), prefix=6, text=9)


def test_draws_one_by_one_are_those_of_the_layout() -> None:
    draw = RatioDraw((2, 4, 8), seed=3)
    layout = VideoLayout.vst(visual=40, chunk=16, ratio_mix=(2, 4, 8), seed=3)
    assert [draw.next(n) for n in (16, 16, 8)] == [segment.ratio for segment in layout.samples[0][0].segments]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RatioDraw(()), r"ratios=\(\): at least one"),
        (lambda: RatioDraw((4, 0)), "each at least 1"),
        (lambda: RatioDraw((2, 4), "random"), "draw='random' is not one of 'step-random', 'instance-random'"),
        (lambda: RatioDraw((2, 4), "adapt-K", length=9), "K of 'adapt-K' is a number of tokens"),
        (lambda: RatioDraw((2, 4), "adapt-16"), "needs length=, the tokens of the whole sequence"),
        (lambda: RatioDraw((4, 8)).next(6), r"none of the ratios \(4, 8\) divides a chunk of 6 tokens"),
    ],
)
def test_bad_draws_are_one_clear_error(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
