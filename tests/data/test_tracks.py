"""Which of a file's tracks is the video, and what a path may look like."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from encoded import Encode, bars, packets
from foreign import read
from PIL import Image

from longreel.data import MediaError, frames

pytestmark = pytest.mark.fast

Disposition = av.stream.Disposition


def two_tracks(path: Path, flagged: int | None) -> Path:
    """The second track's frames are 500 later."""
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("libx264", rate=25, options={"g": "10"}) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.disposition = Disposition.default if number == flagged else Disposition(0)
        for index in range(30):
            for number, stream in enumerate(streams):
                frame = av.VideoFrame.from_ndarray(bars(index + 500 * number), "rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["two.mkv", "two.mp4"])
@pytest.mark.parametrize("flagged", [0, 1])
def test_the_track_that_is_flagged(tmp_path: Path, name: str, flagged: int) -> None:
    path = two_tracks(tmp_path / name, flagged)
    for spec, workers in (("fps:25", 1), ("fps:25", 3), ("uniform:30", 1)):
        assert read(path, spec, workers=workers)[0] == [500 * flagged + index for index in range(30)]


def test_the_first_track_where_none_is(tmp_path: Path) -> None:
    assert read(two_tracks(tmp_path / "two.ts", None))[0] == list(range(30))


def with_cover(path: Path, video: bool) -> Path:
    with av.open(str(path), "w") as out:
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        sound = out.add_stream("aac", rate=16000, layout="mono")
        if video:
            stream = out.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(bars(1000), "rgb24")
        frame.pts, frame.time_base = 0, Fraction(1, 1)
        out.mux(cover.encode(frame))
        out.mux(cover.encode(None))
        for packet in packets(30) if video else ():
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            out.mux(packet)
        wave = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        wave.sample_rate, wave.pts = 16000, 0
        out.mux(sound.encode(wave))
        out.mux(sound.encode(None))
    return path


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    assert read(with_cover(tmp_path / "film.mp4", video=True))[0] == list(range(30))
    song = with_cover(tmp_path / "song.mp4", video=False)
    with pytest.raises(MediaError, match=r"no video stream \(it holds a cover picture, audio\)"):
        frames(song)


NAMES = [
    "10:30:00.mp4", "concat:a|b.mp4", "data:text,a.mp4", "pipe:0.mp4", "-", "--help", "100%d.mp4", "50%.mp4", "%05d.jpg",
    "a b\tc.mp4", "línea—日本.mp4", "http:.mp4", "file:x.mp4", "async:cache:y.mp4", "a,b;c'd\"e.mp4", "no-extension", "*.mp4",
    "[x]?.mp4",    "subfile,,start,0,end,0,,:a.mp4", "line\nbreak.mp4",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name(encode: Encode, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode("named.mp4", frames=10, make=bars).read_bytes()
    (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    for path in (Path(name), tmp_path / name):
        assert read(path, workers=2)[0] == list(range(10))


def test_a_name_that_is_no_text(encode: Encode, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\xfe.mp4"
    with open(path, "wb") as file:
        file.write(encode("named.mp4", frames=10, make=bars).read_bytes())
    assert read(Path(os.fsdecode(path)))[0] == list(range(10))


def test_numbered_pictures_are_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(5):
        Image.fromarray(bars(index)).save(tmp_path / f"{index}.tga")
    Image.fromarray(bars(700)).save(tmp_path / "%d.tga")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MediaError, match="not a video or image"):
        read(Path("%d.tga"))


def test_what_is_no_file(tmp_path: Path, encode: Encode) -> None:
    loop, pipe = tmp_path / "loop.mp4", tmp_path / "pipe.mp4"
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    link = tmp_path / "link.mp4"
    link.symlink_to(encode("named.mp4", frames=10, make=bars))
    assert read(link)[0] == list(range(10))
    for path, match in (
        (loop, "cannot be opened"), (pipe, "not a regular file"), (Path("/dev/null"), "not a regular file"),
        (tmp_path, "is a directory"), (tmp_path / ("x" * 300), "cannot be opened"), (tmp_path / "a\0b", "cannot be opened"),
        (link / "below", "cannot be opened"), (tmp_path / "none", "no such file"),
    ):  # fmt: skip
        with pytest.raises(MediaError, match=match) as error:
            frames(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile {}\n", "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{}\n#EXT-X-ENDLIST\n",
        "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>{}</BaseURL></MPD>",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 1234 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    ],
)  # fmt: skip
def test_a_script_does_not_open_another_file(encode: Encode, tmp_path: Path, content: str) -> None:
    (tmp_path / "other.mp4").write_bytes(encode("named.mp4", frames=10, make=bars).read_bytes())
    path = tmp_path / "script.txt"
    path.write_text(content.format("other.mp4"))
    with pytest.raises(MediaError, match="not a video or image"):
        frames(path)
