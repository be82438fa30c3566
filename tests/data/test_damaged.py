import contextlib
import random
import warnings
from pathlib import Path

import av
import pytest
from encoded import Encode, grey
from PIL import Image

from longreel.data import MediaError, MediaWarning, frames
from longreel.data.damage import Sieve

pytestmark = pytest.mark.fast


def outcome(path: Path | list[Path], **options: object) -> tuple[list[int], list[str]]:
    """Which frames came, and the text of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seen = [index for part in frames(path, "fps:25", **options) for index in grey(part.pixels)]  # type: ignore[arg-type]
    assert all(issubclass(item.category, MediaWarning) for item in caught)
    return seen, [str(item.message) for item in caught]


def refused(path: Path | list[Path], match: str, **options: object) -> None:
    with pytest.raises(MediaError, match=match) as error:
        list(frames(path, **options))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert str(path[0] if isinstance(path, list) else path) in str(error.value)


def cut(source: Path, target: Path, share: float) -> Path:
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("empty.mp4", b"", "empty"),
        ("zeros.mp4", bytes(5000), "not a video or image"),
        ("noise.mp4", random.Random(0).randbytes(20000), "not a video or image"),
        ("text.mp4", b"just some words\n" * 50, "not a video or image"),
        ("words.txt", b"just some words\n" * 50, "not a video or image"),
        ("code.py", b"print('hello')\n", "not a video or image"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:4,\nhttp://192.0.2.1/a.ts\n#EXT-X-ENDLIST\n", "not a video or image"),
        ("subtitles.srt", b"1\n00:00:01,000 --> 00:00:02,000\nhello\n", "no video stream"),
        ("huge.y4m", b"YUV4MPEG2 W30000 H30000 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(100), "30000|not a video"),
        ("header.y4m", b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420jpeg\n", "no frame could be decoded|not a video"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, match)


def test_missing_and_directory(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.mp4", "no such file")
    refused(tmp_path, "is a directory")
    with pytest.raises(MediaError, match="no input"):
        frames([])


def test_two_videos(clip: Path) -> None:
    refused([clip, clip], "is not an image")


def test_audio_only(encode: Encode) -> None:
    refused(encode("sound.m4a", audio=True, video=False), r"no video stream \(it holds audio\)")


def test_no_frames(clip: Path, tmp_path: Path) -> None:
    data = clip.read_bytes()
    path = tmp_path / "header_only.mp4"
    path.write_bytes(data[: data.index(b"mdat") + 4])
    refused(path, "no frame could be decoded")


def test_one_frame(encode: Encode) -> None:
    assert outcome(encode("one.mp4", frames=1)) == ([0], [])


def test_wrong_extension(encode: Encode, tmp_path: Path) -> None:
    path = tmp_path / "actually_mp4.png"
    path.write_bytes(encode("named.mp4", frames=5).read_bytes())
    assert outcome(path) == ([0, 1, 2, 3, 4], [])


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi"])
def test_truncated_files_give_their_whole_frames_and_one_warning(encode: Encode, tmp_path: Path, name: str) -> None:
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    seen, said = outcome(cut(encode(name, codec=codec, options=options), tmp_path / name, 0.6))
    assert 10 <= len(seen) < 45
    assert seen == list(range(len(seen)))
    assert len(said) == 1
    assert "damaged" in said[0]
    # An AVI's length is estimated from its bytes, so a cut one claims no more than it has.
    assert ("it ends at" in said[0]) or name == "cut.avi"


def test_truncated_before_its_index(encode: Encode, tmp_path: Path) -> None:
    refused(cut(encode("tail.mp4"), tmp_path / "tail.mp4", 0.6), "not a video or image")


def test_truncated_uniform_gives_the_part_that_is_there(clip: Path, tmp_path: Path) -> None:
    path = cut(clip, tmp_path / "part.mp4", 0.6)
    with pytest.warns(MediaWarning, match="it ends at"):
        count = sum(len(part.pixels) for part in frames(path, "uniform:10"))
    assert 2 <= count < 10


@pytest.mark.parametrize("name", ["bits.mp4", "bits.mkv", "bits.ts"])
@pytest.mark.parametrize("kind", ["flipped", "zeroed"])
def test_damage_in_the_middle_is_passed_over(encode: Encode, tmp_path: Path, name: str, kind: str) -> None:
    data = bytearray(encode(name).read_bytes())
    third = len(data) // 3
    if kind == "zeroed":
        data[third : third + len(data) // 6] = bytes(len(data) // 6)
    else:
        draw = random.Random(1)
        for _ in range(30):
            data[draw.randrange(third, 2 * third)] ^= 0xFF
    path = tmp_path / name
    path.write_bytes(data)
    seen, said = outcome(path)
    assert len(seen) >= 25
    assert seen[:5] == [0, 1, 2, 3, 4]
    assert len(said) == 1
    assert "frames lost" in said[0]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_no_cut_gives_anything_but_frames_or_one_line(encode: Encode, tmp_path: Path, share: float) -> None:
    for name in ("any.mp4", "any.mkv", "any.ts"):
        path = cut(encode(name, frames=20), tmp_path / name, share)
        with contextlib.suppress(MediaError):
            seen, said = outcome(path)
            assert seen
            assert len(said) <= 1


def test_text_in_the_header_that_is_not_utf8_does_no_harm(encode: Encode, tmp_path: Path) -> None:
    data = encode("latin.mkv", frames=5).read_bytes()
    assert b"Lavf" in data
    path = tmp_path / "latin.mkv"
    path.write_bytes(data.replace(b"Lavf", b"L\xe4vf"))
    assert outcome(path) == ([0, 1, 2, 3, 4], [])


def test_damaged_images(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    Image.new("RGB", (640, 480), (200, 10, 10)).save(good)
    refused(cut(good, tmp_path / "cut.png", 0.5), "damaged")
    header = bytearray(good.read_bytes())
    header[16:24] = (100_000).to_bytes(4, "big") * 2
    huge = tmp_path / "huge.png"
    huge.write_bytes(header)
    refused(huge, "100000|damaged")


def test_frames_of_two_decoders_at_once_keep_their_numbers(clip: Path) -> None:
    """A frame without its number was judged by another's: what was shown of two damaged videos at once was chance."""

    def given(container: av.container.InputContainer) -> list[av.Packet]:
        sieve, packets = Sieve(container.streams.video[0].codec_context), []
        for packet in container.demux(video=0):
            if packet.size:
                sieve.give(packet)
                packets.append(packet)
        return packets

    with av.open(str(clip)) as one, av.open(str(clip)) as other:
        later = given(one)
        for packet in given(other):
            other.streams.video[0].decode(packet)
        del packet
        other.streams.video[0].codec_context.flush_buffers()
        carried = [frame.opaque for packet in later for frame in one.streams.video[0].decode(packet)]
    assert len(carried) > 10
    assert None not in carried
