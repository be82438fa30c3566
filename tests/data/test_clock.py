"""What the times in a file mean: which frame is on screen when, whatever its stamps do."""

from fractions import Fraction
from pathlib import Path

import av
import pytest
from encoded import Encode, bars, packets
from foreign import read, restamp_flv, restamp_ts

pytestmark = pytest.mark.fast

RATE = 25
EVERY_SECOND = [25 * second for second in range(4)]


@pytest.fixture(scope="module")
def flv(encode: Encode) -> bytes:
    """Four seconds without B-frames."""
    return encode("plain.flv", frames=100, make=bars, coder={"bf": "0"}).read_bytes()


@pytest.fixture(scope="module")
def ts(encode: Encode) -> bytes:
    return encode("plain.ts", frames=100, make=bars).read_bytes()


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def near(got: list[int], wanted: list[int], apart: int) -> None:
    assert len(got) == len(wanted)
    assert max(abs(one - other) for one, other in zip(got, wanted, strict=True)) <= apart


def test_pairs_that_share_a_stamp_keep_the_clock(tmp_path: Path) -> None:
    path = tmp_path / "pairs.mkv"
    with av.open(str(path), "w") as out:
        coded = packets(100)
        stream = out.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index, packet in enumerate(coded):
            copy = av.Packet(bytes(packet))
            copy.stream, copy.time_base, copy.is_keyframe = stream, Fraction(1, 1000), packet.is_keyframe
            copy.pts = copy.dts = index // 2 * 80
            out.mux(copy)
    seen, times, said = read(path, "fps:1")
    assert (seen, said) == (EVERY_SECOND, [])
    assert times == pytest.approx([0, 1, 2, 3], abs=0.041)
    assert read(path, "uniform:4")[0] == EVERY_SECOND
    assert read(path)[0] == list(range(100))


@pytest.mark.parametrize("burst", [3, 5, 25])
def test_bursts_with_one_stamp(flv: bytes, tmp_path: Path, burst: int) -> None:
    path = saved(tmp_path / "a.flv", restamp_flv(flv, lambda k, old: k // burst * burst * 40))
    seen, _, said = read(path)
    near(seen, list(range(len(seen))), 1)
    assert 99 <= len(seen) <= 101
    assert said == []


@pytest.mark.parametrize(
    ("name", "stamps"),
    [
        ("one slips back", lambda k, old: old - 80 if k == 30 else old),
        ("many slip back", lambda k, old: old - 120 if k % 7 == 6 else old),
        ("one far ahead", lambda k, old: old + 5000 if k == 30 else old),
        ("three far ahead", lambda k, old: old + 5000 * (k - 29) if k in (30, 31, 32) else old),
        ("one an hour ahead", lambda k, old: old + 4_000_000 if k == 30 else old),
        ("one far back", lambda k, old: 0 if k == 70 else old),
        ("all but the first lost", lambda k, old: 0),
        ("jitter", lambda k, old: old + (k * 7919) % 37 * (k < 99)),
    ],
)
def test_a_stamp_that_cannot_be_is_no_new_clock(flv: bytes, tmp_path: Path, name: str, stamps: object) -> None:
    path = saved(tmp_path / "a.flv", restamp_flv(flv, stamps))  # type: ignore[arg-type]
    for spec, wanted in (("fps:1", EVERY_SECOND), ("uniform:4", EVERY_SECOND), ("fps:25", list(range(100)))):
        seen, _, said = read(path, spec)
        near(seen, wanted, 1)
        assert said == []


def test_a_gap_is_a_still_where_the_clock_is_whole(flv: bytes, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.flv", restamp_flv(flv, lambda k, old: old + (30_000 if k >= 50 else 0)))
    seen, _, said = read(path, "fps:1")
    assert (seen, said) == ([0, 25, *[49] * 30, 50, 75], [])


@pytest.mark.parametrize("name", ["a.mkv", "a.flv"])
def test_pictures_that_stay_for_long_between_reordered_ones(tmp_path: Path, name: str) -> None:
    """A recording that keeps a picture as long as nothing moves: the next is decoded with those shown long before it."""
    seconds = [0, 50, 51, 52, 53, 54, 110, 111, 112, 230, 231, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 500]
    path = tmp_path / name
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.options = {"bf": "2", "b-adapt": "0", "sc_threshold": "0"}
        for index, second in enumerate(seconds):
            frame = av.VideoFrame.from_ndarray(bars(index), "rgb24")
            frame.pts, frame.time_base = second, Fraction(1)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    seen, times, said = read(path, "fps:1")
    assert said == []
    assert seen == [sum(second <= at for second in seconds) - 1 for at in range(501)]
    assert sorted(set(times)) == seconds


@pytest.mark.parametrize("leap", [1000 * 90000, -3 * 90000, 20 * 90000])
def test_a_clock_that_leaps_goes_on_at_once(ts: bytes, tmp_path: Path, leap: int) -> None:
    path = saved(tmp_path / "a.ts", restamp_ts(ts, lambda k, old: old + 4 * 90000 + (leap if k >= 50 else 0)))
    seen, times, said = read(path, "fps:1")
    assert seen == EVERY_SECOND
    assert times == pytest.approx([0, 1, 2, 3], abs=0.001)
    assert len(said) == (leap > 0)
    assert not said or f"leaps by {leap / 90000 + 0.04:.2f} s at 2.00 s" in said[0]
    assert read(path, "uniform:4")[0] == EVERY_SECOND


def test_the_clock_of_a_transport_stream_wraps(ts: bytes, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ts", restamp_ts(ts, lambda k, old: old - 133200 + (1 << 33) - 2 * 90000))
    assert read(path, "fps:1") == (EVERY_SECOND, [0, 1, 2, 3], [])


@pytest.mark.parametrize("name", ["b.avi", "b.mkv"])
def test_decoding_times_alone(tmp_path: Path, name: str) -> None:
    """B-frames where the container has decoding times only, or decoding times in the place of the others."""
    path = tmp_path / name
    with av.open(str(path), "w") as out:
        coded = packets(100, options={"bf": "2", "b-adapt": "0"})
        stream = out.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index, packet in enumerate(coded):
            copy = av.Packet(bytes(packet))
            copy.stream, copy.time_base, copy.is_keyframe = stream, Fraction(1, RATE), packet.is_keyframe
            copy.pts = copy.dts = index
            out.mux(copy)
    assert [packet.pts for packet in coded] != sorted(packet.pts for packet in coded if packet.pts is not None)
    for workers in (1, 3):
        seen, times, said = read(path, workers=workers)
        near(seen, list(range(100)), 2)
        assert seen[4:] == list(range(4, 100)) or name != "b.avi"
        assert times == sorted(times)
        assert said == []
    assert read(path, "uniform:4")[0] == EVERY_SECOND


def test_frames_without_stamps_have_the_rate_of_the_stream(encode: Encode) -> None:
    path = encode("slow.h264", frames=40, rate=10, make=bars)
    seen, times, said = read(path, "fps:1")
    assert (seen, times, said) == ([0, 10, 20, 30], [0, 1, 2, 3], [])
    assert read(path, "uniform:4")[0] == [0, 10, 20, 30]


@pytest.mark.slow
def test_a_hole_leaves_the_clock_alone(encode: Encode, tmp_path: Path) -> None:
    data = encode(
        "hole.mp4",
        frames=250,
        make=bars,
        coder={"bf": "2", "g": "25", "preset": "medium", "sc_threshold": "0"},
    ).read_bytes()
    for share in (0.2, 0.35, 0.5, 0.65):
        start = int(data.index(b"moov") * share)
        path = saved(tmp_path / "hole.mp4", data[:start] + bytes(1000) + data[start + 1000 :])
        seen, times, said = read(path)
        assert len(seen) == 250
        assert len(said) == 1
        # Each picture stands at its own time, stays there while others are lost, and those after the hole are right.
        assert times == sorted(times)
        whole = [index for index, time in enumerate(times) if seen[index] == round(25 * time)]
        assert len(whole) >= 150
        assert seen[-20:] == list(range(230, 250))
        for workers in (2, 3):
            assert read(path, workers=workers) == (seen, times, said)
