"""How long a video is: what is there counts, and headers are hints."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import pytest
from encoded import Encode, bars, packets
from foreign import flv_duration, read

from longreel.data import frames

pytestmark = pytest.mark.fast

QUARTERS = [0, 25, 50, 75]
NAMES = ["a.flv", "a.mkv", "a.ts", "a.mpg", "a.mp4", "a.avi", "a.h264", "a.mjpeg", "fragments.mp4", "live.mkv"]


def four_seconds(encode: Encode, name: str) -> Path:
    kind = name.split(".")[1]
    codec = {"mpg": "mpeg2video", "avi": "mpeg4", "mjpeg": "mjpeg"}.get(kind, "libx264")
    options = {"fragments.mp4": {"movflags": "frag_keyframe+empty_moov"}, "live.mkv": {"live": "1"}}.get(name, {})
    return encode(name, frames=100, codec=codec, make=bars, options=options)


@pytest.mark.parametrize("name", NAMES)
def test_every_container_is_as_long_as_its_frames(encode: Encode, name: str) -> None:
    path = four_seconds(encode, name)
    assert read(path, "uniform:4")[0::2] == (QUARTERS, [])
    seen, _, said = read(path)
    assert (seen, said) == (list(range(100)), [])
    assert frames(path, "fps:25").expected == 100
    assert frames(path, "uniform:7").expected == 7


@pytest.mark.parametrize("claimed", [0.5, 1.0, 3.0])
def test_a_header_that_says_too_little(encode: Encode, tmp_path: Path, claimed: float) -> None:
    flv = tmp_path / "short.flv"
    flv.write_bytes(flv_duration(four_seconds(encode, "a.flv").read_bytes(), claimed))
    data = four_seconds(encode, "a.mkv").read_bytes()
    place = data.index(b"\x44\x89\x88") + 3
    mkv = tmp_path / "short.mkv"
    mkv.write_bytes(data[:place] + struct.pack(">d", claimed * 1000) + data[place + 8 :])
    data = four_seconds(encode, "a.mp4").read_bytes()
    place = data.index(b"mdhd") + 4 + 12
    scale, _ = struct.unpack_from(">II", data, place)
    mp4 = tmp_path / "short.mp4"
    mp4.write_bytes(data[: place + 4] + struct.pack(">I", int(claimed * scale)) + data[place + 8 :])
    for path in (flv, mkv, mp4):
        assert read(path, "uniform:4")[0::2] == (QUARTERS, [])
        assert read(path, "fps:1")[0::2] == (QUARTERS, [])
        assert read(path, "fps:2,max=4")[0::2] == (QUARTERS, [])
        assert frames(path, "fps:1").expected == 4


def test_a_header_that_says_too_much_is_told(encode: Encode, tmp_path: Path) -> None:
    path = tmp_path / "long.flv"
    path.write_bytes(flv_duration(four_seconds(encode, "a.flv").read_bytes(), 60.0))
    seen, _, said = read(path, "uniform:4")
    assert seen == QUARTERS
    assert len(said) == 1
    assert "it ends at 4.00 s of 60.00 s" in said[0]
    assert frames(path, "fps:1").expected == 4


@pytest.mark.parametrize("name", ["a.ts", "live.mkv", "a.mpg", "a.h264", "a.mjpeg"])
def test_recordings_joined_by_their_bytes(encode: Encode, tmp_path: Path, name: str) -> None:
    data = four_seconds(encode, name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data * 3)
    seen, times, said = read(path, "fps:1")
    assert (seen, said) == (QUARTERS * 3, [])
    assert times == pytest.approx(range(12), abs=0.002)
    assert read(path, "uniform:6")[0] == [0, 50] * 3
    assert frames(path, "fps:1").expected == 12


def test_two_joined_and_three(encode: Encode, tmp_path: Path) -> None:
    data = four_seconds(encode, "a.mkv").read_bytes()
    path = tmp_path / "a.mkv"
    path.write_bytes(data * 2)
    assert read(path, "fps:1")[0::2] == (QUARTERS * 2, [])
    path.write_bytes(data * 3)
    seen, _, said = read(path, "fps:1")
    assert seen == QUARTERS * 2
    assert len(said) == 1
    assert "another recording" in said[0]


@pytest.mark.parametrize("name", ["a.mp4", "a.flv"])
def test_a_second_recording_that_is_not_read_is_told(encode: Encode, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(four_seconds(encode, name).read_bytes() * 2)
    for spec, workers in (("fps:1", 1), ("uniform:4", 3)):
        seen, _, said = read(path, spec, workers=workers)
        assert seen == QUARTERS
        assert len(said) == 1
        assert "another recording" in said[0]


def test_a_recording_cut_between_key_frames_is_not_damaged(encode: Encode, tmp_path: Path) -> None:
    coder = {"g": "50", "bf": "2", "preset": "medium", "sc_threshold": "0"}
    data = encode("cut.ts", frames=200, make=bars, coder=coder).read_bytes()
    path = tmp_path / "cut.ts"
    path.write_bytes(data[len(data) // 6 // 188 * 188 :])
    seen, times, said = read(path)
    assert said == []
    assert (seen, times[0]) == (list(range(50, 200)), 0)
    assert read(path, "uniform:5")[0::2] == ([50, 80, 110, 140, 170], [])
    assert read(path, "fps:1")[0::2] == ([50, 75, 100, 125, 150, 175], [])


def test_empty_packets_repeat_a_picture(tmp_path: Path) -> None:
    """As Theora and AVI have them."""
    path = tmp_path / "empty.avi"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index, packet in enumerate(packets(20, "mpeg4")):
            copy = av.Packet(bytes(packet))
            copy.stream, copy.time_base, copy.is_keyframe = stream, Fraction(1, 25), packet.is_keyframe
            # The muxer fills what it misses with empty chunks.
            copy.pts = copy.dts = index * 5
            out.mux(copy)
    for workers in (1, 3):
        seen, _, said = read(path, workers=workers)
        assert said == []
        assert seen == [index // 5 for index in range(len(seen))]
        assert len(seen) in (96, 100)


def test_an_empty_edit_is_no_part_of_the_video(encode: Encode) -> None:
    path = encode("edit.mp4", stamps=range(100, 200), make=bars)
    for workers in (1, 3):
        assert read(path, "uniform:4", workers=workers)[0::2] == (QUARTERS, [])
        assert read(path, "fps:1", workers=workers) == (QUARTERS, [0, 1, 2, 3], [])
    assert frames(path, "fps:1").expected == 4


@pytest.mark.parametrize("name", ["late.mkv", "late.ts", "late.mp4", "late.flv"])
def test_progress_counts_from_the_first_frame(encode: Encode, name: str) -> None:
    path = encode(name, stamps=range(500, 550), make=bars)
    assert frames(path, "fps:25").expected == 50
    assert read(path)[0] == list(range(50))


def test_frames_before_time_zero_are_frames(tmp_path: Path) -> None:
    path = tmp_path / "negative.ts"
    options = {"avoid_negative_ts": "disabled", "muxdelay": "0", "muxpreload": "0"}
    with av.open(str(path), "w", options=options) as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for packet in packets(100):
            packet.stream = stream
            packet.pts, packet.dts = (packet.pts or 0) - 50, (packet.dts or 0) - 50
            packet.time_base = Fraction(1, 25)
            out.mux(packet)
    assert read(path, "fps:1")[0::2] == (QUARTERS, [])
    assert read(path, "uniform:4")[0] == QUARTERS
    assert frames(path, "fps:1").expected == 4


@pytest.mark.parametrize("ends", [[1500, 3000, 4500, 6000], [5000, 7500], [7500]])
def test_reordered_pictures_that_stay_for_minutes(encode: Encode, ends: list[int]) -> None:
    """The header of an MP4 adds up how long packets last in the order decoded, which is not how long pictures are shown."""
    stamps = [*range(50), *ends]
    path = encode(f"stays{len(ends)}.mp4", stamps=stamps, make=bars, coder={"bf": "2", "preset": "medium", "g": "50"})
    length = ends[-1] + 1
    wanted = [max(i for i, stamp in enumerate(stamps) if 6 * stamp <= length * k) for k in range(6)]
    assert read(path, "uniform:6")[0::2] == (wanted, [])
    assert frames(path, "fps:1").expected == len(read(path, "fps:1")[0])
