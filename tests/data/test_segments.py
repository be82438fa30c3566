"""Decoding in segments gives exactly the frames of decoding straight through, whatever the file."""

import itertools
import random
import threading
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from encoded import Encode

from longreel.data import frames
from longreel.data.segments import Segment, SegmentReader, default_workers, plan

Frames = tuple[torch.Tensor, list[float], list[str]]
MP4 = {"movflags": "faststart"}


def collect(path: Path, spec: str, workers: int | None) -> Frames:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chunks = list(frames(path, spec, size=32, chunk=7, workers=workers))
    times = [time for chunk in chunks for time in chunk.times.tolist()]
    return torch.cat([chunk.pixels for chunk in chunks]), times, [str(warning.message) for warning in caught]


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[SegmentReader | None]:
    """The segment readers that were made, None where straight through was chosen."""
    made: list[SegmentReader | None] = []
    of = SegmentReader.of

    def note(*arguments: object) -> SegmentReader | None:
        made.append(of(*arguments))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(SegmentReader, "of", staticmethod(note))
    return made


def straight(path: Path, spec: str, monkeypatch: pytest.MonkeyPatch) -> Frames:
    with monkeypatch.context() as patched:
        patched.setattr(SegmentReader, "of", staticmethod(lambda *arguments: None))
        return collect(path, spec, 1)


def same(one: Frames, other: Frames) -> None:
    assert one[1:] == other[1:]
    assert torch.equal(one[0], other[0])


CODING = {
    "plain": {"g": "10"},
    "b frames": {"g": "12", "bf": "3", "preset": "medium"},
    "open groups": {"g": "12", "bf": "3", "preset": "medium", "x264-params": "open-gop=1:bframes=3"},
    "all key frames": {"g": "1"},
    "one key frame": {"g": "1000"},
}


@pytest.mark.parametrize("coding", CODING)
@pytest.mark.parametrize("spec", ["fps:25", "fps:3", "fps:1", "uniform:4", "uniform:120", "fps:10,max=6"])
def test_the_same_frames(
    coding: str, spec: str, encode: Encode, monkeypatch: pytest.MonkeyPatch, readers: list[SegmentReader | None]
) -> None:
    path = encode(f"{coding.replace(' ', '-')}.mp4", frames=110, options=MP4, coder={"qp": "30", **CODING[coding]})
    wanted = straight(path, spec, monkeypatch)
    for workers in (1, 2, 3):
        readers.clear()
        same(collect(path, spec, workers), wanted)
        assert all(reader is None or reader.whole for reader in readers)
        assert len(readers) == 1
        if workers > 1 and coding != "one key frame":
            assert readers[0] is not None


@pytest.mark.parametrize("stamps", [[0, 3, 24, 26, 80, 110, *range(111, 160)], list(range(500, 560))])
def test_odd_clocks(
    stamps: list[int], encode: Encode, monkeypatch: pytest.MonkeyPatch, readers: list[SegmentReader | None]
) -> None:
    path = encode(f"clock{stamps[0]}.mp4", stamps=stamps, options=MP4)
    for spec in ("fps:1", "fps:9", "uniform:5"):
        same(collect(path, spec, 2), straight(path, spec, monkeypatch))


def cut(data: bytes) -> bytes:
    return data[: int(0.6 * len(data))]


def flipped(data: bytes) -> bytes:
    broken, draw = bytearray(data), random.Random(1)
    for _ in range(30):
        broken[draw.randrange(len(data) // 2, len(data))] ^= 0xFF
    return bytes(broken)


def hole(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(3000) + data[middle + 3000 :]


@pytest.mark.parametrize("damage", [cut, flipped, hole])
@pytest.mark.parametrize("spec", ["fps:5", "fps:1", "uniform:40"])
def test_damage_ends_as_straight_through(
    damage: Callable[[bytes], bytes], spec: str, encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "damaged.mp4"
    path.write_bytes(damage(encode("whole.mp4", frames=110, options=MP4).read_bytes()))
    wanted = straight(path, spec, monkeypatch)
    for workers in (1, 3):
        same(collect(path, spec, workers), wanted)


B_FRAMES = {"qp": "30", "g": "25", "bf": "2", "preset": "medium"}


@pytest.mark.parametrize("seed", range(6))
def test_damage_among_reordered_frames_is_the_same_for_any_workers(
    seed: int, encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(encode("reordered.mp4", frames=110, options=MP4, coder=B_FRAMES).read_bytes())
    draw = random.Random(seed)
    for _ in range(4):
        data[draw.randrange(len(data) // 2, len(data))] ^= 0xFF
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    wanted = straight(path, "uniform:40", monkeypatch)
    same(collect(path, "uniform:40", 3), wanted)
    same(straight(path, "uniform:40", monkeypatch), wanted)


@pytest.mark.parametrize("name", ["hole.mp4", "hole.ts"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_what_is_shown_around_a_hole_is_a_picture_of_the_whole_file_at_its_time(
    name: str, share: float, encode: Encode, tmp_path: Path
) -> None:
    whole = encode(name, frames=110, options=MP4 if name.endswith("mp4") else None, coder=B_FRAMES)
    clean, times, _ = collect(whole, "fps:25", 1)
    data = bytearray(whole.read_bytes())
    start = int(len(data) * share)
    data[start : start + 2000] = bytes(2000)
    path = tmp_path / name
    path.write_bytes(data)
    pixels, shown, said = collect(path, "fps:25", 1)
    assert len(pixels) == len(clean)
    assert len(set(shown)) > 60
    assert len(said) == 1
    by_time = {round(25 * time): picture for picture, time in zip(clean, times, strict=True)}
    for number, (picture, time) in enumerate(zip(pixels, shown, strict=True)):
        assert round(25 * time) <= number
        assert torch.equal(picture, by_time[round(25 * time)]), (number, time)


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.avi", "raw.h264"])
def test_files_without_a_full_index_go_straight_through(
    name: str, encode: Encode, readers: list[SegmentReader | None]
) -> None:
    path = encode(name, codec="mpeg4" if name == "a.avi" else "libx264")
    assert len(collect(path, "fps:5", 3)[1]) == 10
    if name != "a.avi":
        assert readers == [None]


def test_few_frames_of_a_long_video_decode_few_groups() -> None:
    keys = [250 * index for index in range(360)]
    made = plan(keys, Fraction(1, 25), Fraction(450), 8, Fraction(3600), Fraction(20, 25), 1)
    assert made is not None
    # A sampling time on a key frame wants the group before it too, whose last frames might be shown then.
    assert [(s.end or 90000) - s.begin for s in made] == [250, *[500] * 7, 250]
    assert made[0] == Segment(0, 250, False, True)
    assert made[-1].end is None
    covered = [(s.begin / 25, 3600 if s.end is None else s.end / 25) for s in made]
    assert all(any(begin <= 450 * i < end for begin, end in covered) for i in range(8))


def test_every_frame_of_a_video_alone_goes_straight_through() -> None:
    keys = [250 * index for index in range(360)]
    assert plan(keys, Fraction(1, 25), Fraction(1), 3600, Fraction(3600), Fraction(20, 25), 1) is None
    made = plan(keys, Fraction(1, 25), Fraction(1), 3600, Fraction(3600), Fraction(20, 25), 4)
    assert made is not None
    assert all(two.joined and two.begin == one.end for one, two in itertools.pairwise(made))
    assert (made[0].begin, made[-1].end) == (0, None)
    assert max((s.end or 90000) - s.begin for s in made) <= 32 * 25


def test_closing_early_stops_every_worker(encode: Encode) -> None:
    path = encode("close.mp4", frames=110, options=MP4)
    before = threading.active_count()
    with frames(path, "fps:25", chunk=1, workers=3) as stream:
        next(stream)
        assert threading.active_count() > before + 1
    assert threading.active_count() == before


def test_workers_are_bounded() -> None:
    assert 1 <= default_workers() <= 8
