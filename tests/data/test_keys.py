"""`keys`: the frames and times of an independent decoder's key frames, whatever the container, by the shortest right way."""

import random
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from encoded import Encode

from longreel.data import FrameSpec, MediaError, frames
from longreel.data.keys import KeyFrames

B = {"g": "12", "bf": "3", "preset": "medium", "qp": "30"}
OPEN = {**B, "x264-params": "open-gop=1:bframes=3:scenecut=0"}
# Name: what encodes it, and which way is the one that gives its frames.
FILES: dict[str, tuple[dict[str, Any], str]] = {
    "plain.mp4": ({}, "index"),
    "b.mp4": ({"coder": B}, "index"),
    "open.mp4": ({"coder": OPEN}, "index"),
    "b.mov": ({"coder": B}, "index"),
    "sound.mp4": ({"coder": B, "audio": True}, "index"),
    "b.mkv": ({"coder": B}, "packets"),
    "open.mkv": ({"coder": OPEN}, "packets"),
    "b.ts": ({"coder": B}, "packets"),
    "b.flv": ({"coder": B}, "packets"),
    "plain.avi": ({}, "packets"),
    "b.avi": ({"coder": B}, "decoding"),
    "vp9.webm": ({"codec": "libvpx-vp9", "coder": {"g": "12"}}, "packets"),
    "mpeg2.mpg": ({"codec": "mpeg2video", "coder": {"g": "12", "bf": "2"}}, "packets"),
    "bare.h264": ({"coder": B}, "decoding"),
    "late.mp4": ({"stamps": [*range(500, 540), 700, *range(720, 760)], "coder": B}, "index"),
}


def oracle(path: Path) -> tuple[list[float], list[int]]:
    """Times since the first frame, and places, of the frames that a whole decode marks as key."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        every = list(container.decode(stream))
    base = every[0].time_base
    places = [place for place, frame in enumerate(every) if frame.key_frame]
    if every[0].pts is None or path.suffix == ".avi":
        return [place / 25 for place in places], places
    return [float((every[place].pts - every[0].pts) * base) for place in places], places


def collect(path: Path, spec: str) -> tuple[torch.Tensor, list[float], list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chunks = list(frames(path, spec, size=32, chunk=7))
    times = [time for chunk in chunks for time in chunk.times.tolist()]
    return torch.cat([chunk.pixels for chunk in chunks]), times, [str(warning.message) for warning in caught]


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ways that were tried, in order."""
    tried: list[str] = []
    for name in ("index", "packets", "decoding"):
        right = getattr(KeyFrames, f"_by_{name}")

        def noted(self: KeyFrames, right: Callable[..., Any] = right, name: str = name) -> Any:
            tried.append(name)
            return right(self)

        monkeypatch.setattr(KeyFrames, f"_by_{name}", noted)
    return tried


@pytest.mark.parametrize("name", FILES)
def test_the_key_frames_of_a_whole_decode(name: str, encode: Encode, ways: list[str]) -> None:
    options, way = FILES[name]
    path = encode(f"keys-{name}", **{"frames": 70, **options})
    times, places = oracle(path)
    assert len(times) > 3
    pixels, found, said = collect(path, "keys")
    assert found == pytest.approx(times, abs=1e-9)
    assert not said
    assert ways[-1] == way
    if "stamps" not in options:
        every = collect(path, "fps:25")[0]
        assert torch.equal(pixels, every[[min(place, len(every) - 1) for place in places]])
    assert collect(path, "keys:1")[1] == spaced(found, 1)


def spaced(times: list[float], apart: float) -> list[float]:
    taken: list[float] = []
    for time in times:
        if not taken or time >= taken[-1] + apart - 1e-9:
            taken.append(time)
    return taken


def test_decoding_times_in_the_place_of_others(encode: Encode, tmp_path: Path, ways: list[str]) -> None:
    path = tmp_path / "rising.mkv"
    with av.open(str(encode("keys-b.mkv", frames=70, coder=B))) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 25), index, index
            out.mux(packet)
    pixels, times, _ = collect(path, "keys")
    every, every_time, _ = collect(path, "fps:25")
    shown = dict(zip(every_time, every, strict=True))
    assert ways[-1] == "decoding"
    assert len(times) > 3
    assert all(torch.equal(picture, shown[time]) for time, picture in zip(times, pixels, strict=True))


@pytest.mark.parametrize("name", ["b.mp4", "open.mp4", "b.mkv"])
def test_damage_is_found_and_what_is_whole_is_given(name: str, encode: Encode, tmp_path: Path) -> None:
    data, draw = bytearray(encode(f"keys-{name}", frames=70, coder=B).read_bytes()), random.Random(3)
    for _ in range(40):
        data[draw.randrange(len(data) // 2, len(data) - len(data) // 8)] ^= 0xFF
    path = tmp_path / name
    path.write_bytes(data)
    pixels, times, _ = collect(path, "keys")
    every, all_times, _ = collect(path, "fps:25")
    shown = dict(zip(all_times, every, strict=True))
    assert set(times) <= set(all_times)
    assert times == sorted(times)
    for time, picture in zip(times, pixels, strict=True):
        assert torch.equal(picture, shown[time])


def test_a_spec_of_key_frames() -> None:
    assert FrameSpec.parse("keys") == FrameSpec(keys=True)
    assert FrameSpec.parse("keys:1/2") == FrameSpec(Fraction(1, 2), keys=True)
    assert [str(FrameSpec.parse(text)) for text in ("keys", "keys:2")] == ["keys", "keys:2"]
    for wrong in ("keys:", "keys:0", "keys,max=3", "keys:1/0", "key"):
        with pytest.raises(ValueError, match="keys or keys:RATE"):
            FrameSpec.parse(wrong)
    with pytest.raises(ValueError, match="has no sampling times"):
        FrameSpec.parse("keys").step(Fraction(3))


def test_the_header_says_how_many(encode: Encode) -> None:
    path = encode("keys-b.mp4", frames=70, coder=B)
    with frames(path, "keys") as stream:
        assert stream.expected == len(oracle(path)[0])
    with frames(path, "keys:1") as stream:
        assert stream.expected == sum(len(chunk.times) for chunk in stream)


def test_pictures_that_move_have_no_key_frames(tmp_path: Path) -> None:
    from PIL import Image

    path, pictures = tmp_path / "moving.webp", [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 90, 200)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    with pytest.raises(MediaError, match="key frames of a video"):
        frames(path, "keys")
