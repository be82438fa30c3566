"""What is not needed is not decoded, and no wanted frame changes by a bit: against decoding every frame."""

import random
import warnings
from pathlib import Path

import av
import pytest
import torch
from encoded import Encode

from longreel.data import frames
from longreel.data.idle import Idle
from longreel.data.segments import SegmentReader
from longreel.data.video import Video

MP4 = {"movflags": "faststart"}
CODING = {
    "plain": {"g": "40"},
    "threads": {"g": "40", "bf": "0", "preset": "fast", "x264-params": "scenecut=0"},
    "b frames": {"g": "40", "bf": "3", "preset": "medium", "qp": "30"},
    "open groups": {"g": "40", "bf": "3", "preset": "medium", "qp": "30", "x264-params": "open-gop=1:bframes=3"},
}
SPECS = ("fps:1", "fps:3/4", "fps:7", "uniform:5", "uniform:60", "fps:10,max=6")
Frames = tuple[torch.Tensor, list[float]]


def collect(path: Path, spec: str, workers: int) -> Frames:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chunks = list(frames(path, spec, size=32, chunk=7, workers=workers))
    return torch.cat([chunk.pixels for chunk in chunks]), [time for chunk in chunks for time in chunk.times.tolist()]


def every(path: Path, spec: str) -> Frames:
    """Straight through, with every frame."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SegmentReader, "of", staticmethod(lambda *arguments: None))
        patched.setattr(Video, "_groups", lambda self: [])
        return collect(path, spec, 1)


def same(one: Frames, other: Frames) -> None:
    assert one[1] == other[1]
    assert torch.equal(one[0], other[0])


@pytest.fixture
def skipped(monkeypatch: pytest.MonkeyPatch) -> list[av.Packet]:
    """The packets that were left out."""
    left, right = list[av.Packet](), Idle.skips

    def noted(self: Idle, packet: av.Packet) -> bool:
        out = right(self, packet)
        left.extend([packet] * out)
        return out

    monkeypatch.setattr(Idle, "skips", noted)
    return left


@pytest.mark.parametrize("coding", CODING)
def test_no_wanted_frame_changes(coding: str, encode: Encode, skipped: list[av.Packet]) -> None:
    path = encode(f"idle-{coding.replace(' ', '-')}.mp4", frames=230, options=MP4, coder=CODING[coding])
    for spec in SPECS:
        wanted = every(path, spec)
        assert not skipped
        for workers in (1, 3):
            same(collect(path, spec, workers), wanted)
            in_order, dense = coding in ("plain", "threads"), spec in ("fps:7", "uniform:60")
            assert in_order or not skipped
            assert skipped or dense or not in_order, (coding, spec, workers)
            skipped.clear()


def test_a_picture_may_stay(encode: Encode, skipped: list[av.Packet]) -> None:
    stamps = [0, 3, 24, 26, 80, 110, *range(111, 160), 400, 401, 430, *range(500, 560, 7)]
    path = encode("idle-stays.mp4", stamps=stamps, options=MP4, coder={"g": "6"})
    for spec in ("fps:1", "fps:9", "fps:1/3", "uniform:5"):
        wanted = every(path, spec)
        for workers in (1, 2):
            same(collect(path, spec, workers), wanted)
    assert skipped


@pytest.mark.parametrize("seed", range(8))
def test_damage_is_found_where_it_matters(seed: int, encode: Encode, tmp_path: Path) -> None:
    coding = ("plain", "b frames")[seed % 2]
    whole = encode(f"idle-{coding.replace(' ', '-')}.mp4", frames=230, options=MP4, coder=CODING[coding])
    data, draw = bytearray(whole.read_bytes()), random.Random(seed)
    start = data.index(b"mdat") + 200
    for _ in range(1 + 4 * seed):
        place = draw.randrange(start, len(data))
        data[place : place + 8] = draw.randbytes(len(data[place : place + 8]))
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    for spec in ("fps:1", "uniform:9"):
        same(collect(path, spec, 1), every(path, spec))
