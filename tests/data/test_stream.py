import gc
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from encoded import Encode, grey

from longreel.data import MediaError, MediaWarning, frames
from longreel.data.prefetch import Prefetch

pytestmark = pytest.mark.fast


def collect(*args: object, **kwargs: object) -> tuple[torch.Tensor, list[float]]:
    chunks = list(frames(*args, **kwargs))  # type: ignore[arg-type]
    return torch.cat([c.pixels for c in chunks]), torch.cat([c.times for c in chunks]).tolist()


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "longreel-prefetch"]


def test_one_frame_a_second(clip: Path) -> None:
    pixels, times = collect(clip, "fps:1")
    assert pixels.shape == (2, 48, 64, 3)
    assert pixels.dtype == torch.uint8
    assert times == [0.0, 1.0]
    assert grey(pixels) == [0, 25]


@pytest.mark.parametrize("count", [1, 4, 5, 8])
def test_nothing_is_decoded_behind_the_last_frame_asked_for(clip: Path, count: int) -> None:
    whole, _ = collect(clip, "fps:25")
    with frames(clip, "fps:25", chunk=4) as stream:
        stream.stop_after(count)
        pixels = torch.cat([chunk.pixels for chunk in stream])
    assert torch.equal(pixels, whole[:count])


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.webm", "a.avi"])
def test_every_container(encode: Encode, name: str) -> None:
    codec = {"a.webm": "libvpx", "a.avi": "mpeg4"}.get(name, "libx264")
    path = encode(name, codec=codec)
    for spec, expected in (("fps:5", list(range(0, 50, 5))), ("uniform:7", [i * 50 // 7 for i in range(7)])):
        pixels, times = collect(path, spec)
        assert grey(pixels) == expected
        assert times == pytest.approx([index / 25 for index in expected], abs=2e-3)


def test_audio_beside_the_video_does_not_stretch_it(encode: Encode) -> None:
    path = encode("sound.mkv", frames=10, audio=True)
    pixels, _ = collect(path, "uniform:5")
    assert grey(pixels) == [0, 2, 4, 6, 8]


def test_variable_rate_takes_the_frame_on_screen(encode: Encode) -> None:
    path = encode("vfr.mkv", stamps=[0, 3, 24, 26, 80, 110], rate=25)
    pixels, times = collect(path, "fps:1")
    assert grey(pixels) == [0, 2, 3, 3, 4]
    assert times == pytest.approx([0, 24 / 25, 26 / 25, 26 / 25, 80 / 25], abs=2e-3)


def test_a_late_first_timestamp_is_time_zero(encode: Encode) -> None:
    path = encode("late.mkv", stamps=range(500, 550))
    pixels, times = collect(path, "fps:1")
    assert grey(pixels) == [0, 25]
    assert times == [0.0, 1.0]


def test_more_frames_than_there_are_repeats_them(encode: Encode) -> None:
    path = encode("short.mp4", frames=3)
    assert grey(collect(path, "uniform:6")[0]) == [0, 0, 1, 1, 2, 2]
    assert grey(collect(path, "fps:50")[0]) == [0, 0, 1, 1, 2, 2]


def test_a_raw_stream_has_frames_one_after_the_other(encode: Encode) -> None:
    path = encode("raw.h264")
    assert grey(collect(path, "fps:5")[0]) == list(range(0, 50, 5))
    assert grey(collect(path, "uniform:5")[0]) == [0, 10, 20, 30, 40]


def test_max(clip: Path) -> None:
    assert len(collect(clip, "fps:10,max=128")[1]) == 20
    assert grey(collect(clip, "fps:10,max=4")[0]) == [0, 12, 25, 37]


@pytest.mark.parametrize("chunk", [1, 3, 50, 64])
def test_chunks(clip: Path, chunk: int) -> None:
    stream = frames(clip, "fps:25", chunk=chunk)
    assert stream.expected == 50
    sizes, seen = [], []
    for part in stream:
        sizes.append(len(part.pixels))
        seen += grey(part.pixels)
        assert len(part.times) == len(part.pixels)
    assert seen == list(range(50))
    assert sizes[:-1] == [chunk] * (len(sizes) - 1)


def test_pieces_end_where_chunks_do(clip: Path) -> None:
    pieces = [part.pixels for part in frames(clip, "fps:25", chunk=12, piece=5)]
    assert [len(piece) for piece in pieces] == [5, 5, 2] * 4 + [2]
    assert [one for piece in pieces for one in grey(piece)] == list(range(50))


def test_what_was_decoded_goes_without_the_collector(clip: Path) -> None:
    """A frame of a cycle would stay, with its picture, until garbage is collected."""
    gc.collect()
    gc.disable()
    try:
        assert sum(len(part.pixels) for part in frames(clip, "fps:25", size=32)) == 50
        assert sum(isinstance(one, av.VideoFrame) for one in gc.get_objects()) < 5
    finally:
        gc.enable()


def test_chunks_are_not_reused(clip: Path) -> None:
    parts = list(frames(clip, "fps:25", chunk=5))
    assert grey(torch.cat([part.pixels for part in parts])) == list(range(50))


@pytest.mark.parametrize(("size", "fit"), [(32, "crop"), (32, "stretch"), (224, "crop"), (7, "crop")])
def test_scaling(clip: Path, size: int, fit: str) -> None:
    pixels, _ = collect(clip, "uniform:2", size=size, fit=fit)
    assert pixels.shape == (2, size, size, 3)
    assert grey(pixels) == [0, 25]


def test_crop_keeps_the_middle_and_the_aspect(encode: Encode) -> None:
    path = encode("wide.mp4", frames=1, width=128, height=32)
    cropped, whole = collect(path, size=32)[0], collect(path)[0]
    assert (cropped.int() - whole[:, :, 48:80].int()).abs().max() <= 2


@pytest.mark.parametrize(("width", "height"), [(2, 2), (18, 34), (62, 50)])
def test_small_and_unaligned_sizes(encode: Encode, width: int, height: int) -> None:
    path = encode(f"{width}x{height}.mp4", frames=2, width=width, height=height)
    assert collect(path, "uniform:2")[0].shape == (2, height, width, 3)
    assert collect(path, "uniform:2", size=16)[0].shape == (2, 16, 16, 3)


def test_odd_size(encode: Encode) -> None:
    path = encode("odd.mkv", frames=2, width=33, height=21, codec="ffv1")
    assert collect(path, "uniform:2")[0].shape == (2, 21, 33, 3)


def test_rotation_in_the_header_is_applied(clip: Path, tmp_path: Path) -> None:
    data = bytearray(clip.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    clockwise = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in clockwise)
    path = tmp_path / "phone.mp4"
    path.write_bytes(data)
    upright, turned = collect(clip)[0], collect(path)[0]
    assert torch.equal(turned, upright.rot90(-1, (1, 2)))


def test_early_close_stops_the_thread(clip: Path) -> None:
    before = len(readers())
    with frames(clip, "fps:1000", chunk=1) as stream:
        next(stream)
        assert len(readers()) == before + 1
    assert len(readers()) == before
    assert next(stream, None) is None
    stream.close()


@pytest.mark.slow
def test_a_forgotten_stream_stops_its_thread(clip: Path) -> None:
    before = len(readers())
    next(frames(clip, "fps:1000", chunk=1))
    gc.collect()
    deadline = time.monotonic() + 5
    while len(readers()) > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(readers()) == before


def test_decoding_stays_a_bounded_number_of_chunks_ahead() -> None:
    made = 0

    def source():
        nonlocal made
        while True:
            made += 1
            yield made

    ahead = Prefetch(source(), 2, "decode")
    assert next(ahead) == 1
    time.sleep(0.3)
    assert made <= 4
    ahead.close()


def test_what_a_signal_ends_before_its_thread_began_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    ahead = Prefetch(iter([1, 2]), 2, "decode")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", told)
        with pytest.raises(KeyboardInterrupt):
            ahead.start()
    ahead.close()
    assert list(ahead) == []


def test_errors_of_the_thread_arrive_after_what_came_before() -> None:
    def source():
        yield 1
        raise MediaError("lost")

    ahead = Prefetch(source(), 2, "decode")
    assert next(ahead) == 1
    with pytest.raises(MediaError, match="lost"):
        next(ahead)
    assert next(ahead, None) is None


@pytest.mark.parametrize(
    "bad", [{"chunk": 0}, {"chunk": 1.5}, {"piece": 0}, {"ahead": 0}, {"size": 0}, {"size": "big"}, {"fit": "pad"}]
)
def test_bad_options(clip: Path, bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
        frames(clip, **bad)  # type: ignore[arg-type]


def test_a_clock_that_leaps_does_not_flood(encode: Encode) -> None:
    path = encode("leap.mkv", stamps=[*range(25), *range(10**7, 10**7 + 25)])
    with pytest.warns(MediaWarning, match="it ends at 2.00 s"):
        pixels, times = collect(path, "fps:1")
    assert grey(pixels) == [0, 25]
    assert times == [0.0, 1.0]


def test_the_fixture_is_what_the_tests_think(clip: Path) -> None:
    with av.open(str(clip)) as container:
        assert container.streams.video[0].average_rate == Fraction(25)
        assert container.streams.video[0].frames == 50


def made(path: Path, codec: str, pixels: str, frame: av.VideoFrame) -> Path:
    """Three times the same frame, at five a second."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=5)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pixels
        stream.colorspace = frame.colorspace
        for index in range(3):
            frame.pts, frame.time_base = index, Fraction(1, 5)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def test_transparency_that_is_not_read_is_told(tmp_path: Path) -> None:
    """WebM keeps it beside the pictures; where it is in them, what is hidden stays hidden."""
    # [h, w, 4], red and transparent
    clear = np.zeros((48, 64, 4), np.uint8) + np.array([255, 0, 0, 0], np.uint8)
    frame = av.VideoFrame.from_ndarray(clear, "rgba")
    with pytest.warns(MediaWarning, match="its transparency is not read"):
        list(frames(made(tmp_path / "a.webm", "libvpx-vp9", "yuva420p", frame.reformat(format="yuva420p"))))
    for name, codec, pixels in (("a.mkv", "ffv1", "yuva420p"), ("a.mov", "qtrle", "argb")):
        chunk = next(frames(made(tmp_path / name, codec, pixels, frame.reformat(format=pixels))))
        assert chunk.pixels.min() == 255


def test_pixels_without_a_way_to_rgb_are_named(tmp_path: Path) -> None:
    frame = av.VideoFrame(64, 48, "yuv444p")
    for plane in frame.planes:
        plane.update(bytes([100]) * plane.buffer_size)
    # YCgCo, which FFmpeg's scaler does not know.
    frame.colorspace = 8
    path = made(tmp_path / "a.mkv", "ffv1", "yuv444p", frame)
    with pytest.raises(MediaError, match=r"a\.mkv: pixels of yuv444p in FFmpeg's colour space 8 cannot be shown"):
        list(frames(path))
