"""Twenty inputs that are broken or odd: every one ends in frames or in one line, never in a traceback."""

import random
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from encoded import Encode
from PIL import Image
from typer.testing import CliRunner

from longreel.cli.main import app
from longreel.models.inputs import feature_writer
from longreel.models.llama_vid import Preset

Make = Callable[[Path, Encode], Path]


def content(name: str, data: bytes) -> Make:
    def make(folder: Path, encode: Encode) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    return make


def cut(name: str, share: float, **options: object) -> Make:
    def make(folder: Path, encode: Encode) -> Path:
        data = encode(name, **options).read_bytes()
        return content(name, data[: int(share * len(data))])(folder, encode)

    return make


def video(name: str, **options: object) -> Make:
    return lambda folder, encode: encode(name, **options)


def flipped(folder: Path, encode: Encode) -> Path:
    data, draw = bytearray(encode("bits.ts").read_bytes()), random.Random(1)
    for _ in range(30):
        data[draw.randrange(len(data) // 3, 2 * len(data) // 3)] ^= 0xFF
    return content("bits.ts", bytes(data))(folder, encode)


def header_only(folder: Path, encode: Encode) -> Path:
    data = encode("header.mp4", options={"movflags": "faststart"}).read_bytes()
    return content("header.mp4", data[: data.index(b"mdat") + 4])(folder, encode)


def wrong_name(folder: Path, encode: Encode) -> Path:
    return content("video.png", encode("named.mp4").read_bytes())(folder, encode)


def huge_image(folder: Path, encode: Encode) -> Path:
    path = folder / "huge.png"
    Image.new("RGB", (64, 48)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def cut_image(folder: Path, encode: Encode) -> Path:
    path = folder / "cut.png"
    Image.effect_noise((64, 48), 50).save(path)
    path.write_bytes(path.read_bytes()[:300])
    return path


def folder_itself(folder: Path, encode: Encode) -> Path:
    return folder


def cut_features(small: Preset) -> Make:
    def make(folder: Path, encode: Encode) -> Path:
        path = folder / "cut.safetensors"
        with feature_writer(str(path), "llama-vid", small, {"kind": "video"}, num_prefix_tokens=1) as writer:
            writer.add(torch.zeros(2, small.tower.tokens, small.tower.width), torch.zeros(2))
        path.write_bytes(path.read_bytes()[:-1])
        return path

    return make


WHOLE, DAMAGED = "all its frames", "frames and a warning"
# What is made, and what must come of it: all frames, frames with one warning, or one line that says this.
INPUTS: dict[str, tuple[Make | None, str]] = {
    "zero bytes": (content("empty.mp4", b""), "the file is empty"),
    "zeros": (content("zeros.mp4", bytes(5000)), "not a video or image"),
    "noise": (content("noise.mp4", random.Random(0).randbytes(20000)), "not a video or image"),
    "text": (content("text.mp4", b"just some words\n" * 50), "not a video or image"),
    "a playlist": (
        content("list.m3u8", b"#EXTM3U\n#EXTINF:4,\nhttp://192.0.2.1/a.ts\n#EXT-X-ENDLIST\n"),
        "not a video",
    ),
    "cut, index first": (cut("front.mp4", 0.6, options={"movflags": "faststart"}), DAMAGED),
    "cut, index last": (cut("tail.mp4", 0.6), "not a video or image"),
    "cut matroska": (cut("cut.mkv", 0.6), DAMAGED),
    "flipped bits": (flipped, DAMAGED),
    "header only": (header_only, "no frame could be decoded"),
    "wrong name": (wrong_name, WHOLE),
    "audio only": (video("sound.m4a", audio=True, video=False), "no video stream (it holds audio)"),
    "one frame": (video("one.mp4", frames=1), WHOLE),
    "odd size": (video("odd.mkv", frames=2, width=33, height=21, codec="ffv1"), WHOLE),
    "variable rate": (video("vfr.mkv", stamps=[0, 3, 24, 26, 80, 110]), WHOLE),
    "leaping clock": (video("leap.mkv", stamps=[*range(25), *range(10**7, 10**7 + 25)]), DAMAGED),
    "huge in the header": (huge_image, "100000"),
    "cut image": (cut_image, "damaged"),
    "a folder": (folder_itself, "is a directory"),
    "nothing there": (lambda folder, encode: folder / "none.mp4", "no such file"),
    "cut features": (None, "cut short"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_one_clear_outcome(name: str, tmp_path: Path, encode: Encode, small: Preset) -> None:
    make, expected = INPUTS[name]
    path = (make or cut_features(small))(tmp_path, encode)
    result = CliRunner().invoke(app, ["run", str(path), "--preset", small.name, "--frames", "fps:5,max=20"])
    assert "Traceback" not in result.output
    said = result.stderr.splitlines()
    if expected in (WHOLE, DAMAGED):
        assert result.exit_code == 0, result.output
        assert re.match(r"(1 frame|\d+ frames) in ", result.stdout)
        assert len(said) == (expected == DAMAGED)
        assert all(line.startswith("warning: ") and "damaged" in line for line in said)
    else:
        assert result.exit_code == 2
        assert len(said) == 1
        assert expected in said[0]
        assert str(path) in said[0]
