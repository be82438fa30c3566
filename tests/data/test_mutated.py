"""Damaged files of every kind give frames or one clear line, whatever the damage."""

import random
import warnings
from pathlib import Path

import pytest
from encoded import Encode, bars
from heif_files import heic
from PIL import Image

from longreel.data import MediaError, MediaWarning, frames

pytestmark = pytest.mark.fast

MUTATIONS = 12
FILMS = ["a.mkv", "a.ts", "a.mp4", "fragments.mp4", "a.flv", "a.mpg", "a.avi", "a.h264"]
PICTURES = ["a.png", "a.jpg", "a.webp", "a.tiff", "a.bmp", "a.ppm", "a.gif", "a.avif", "a.jp2", "a.heic"]
MOVING = ["moving.png", "moving.webp", "moving.gif", "moving.avif", "moving.mjpeg"]


def made(encode: Encode, folder: Path, name: str) -> bytes:
    path = folder / name
    pictures = [Image.fromarray(bars(index)) for index in range(4)]
    if name in FILMS:
        codec = {"a.mpg": "mpeg2video", "a.avi": "mpeg4"}.get(name, "libx264")
        options = {"movflags": "frag_keyframe+empty_moov"} if name == "fragments.mp4" else {}
        path = encode(f"mutated-{name}", frames=25, codec=codec, options=options, make=bars)
    elif name == "a.heic":
        heic(path, [bars(3, 64, 64)] * 4, 2, [], (120, 120))
    elif name == "moving.mjpeg":
        pictures[0].save(path, "jpeg")
        return path.read_bytes() * 4
    elif name in MOVING:
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=500)
    else:
        pictures[0].save(path)
    return path.read_bytes()


def mutated(data: bytes, draw: random.Random, kind: int) -> bytes:
    out = bytearray(data)
    if kind == 0:
        for _ in range(draw.choice([1, 3, 20, 100])):
            out[draw.randrange(len(out))] = draw.randrange(256)
    elif kind == 1:
        del out[draw.randrange(1, len(out)) :]
    elif kind == 2:
        start = draw.randrange(len(out))
        end = min(len(out), start + draw.choice([4, 64, 2000]))
        out[start:end] = draw.choice([b"\0", b"\xff"]) * (end - start)
    else:
        start = draw.randrange(min(len(out), 1500))
        out[start : start + 4] = draw.choice(
            [b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1"]
        )
    return bytes(out)


@pytest.mark.parametrize("name", [*FILMS, *PICTURES, *MOVING])
def test_frames_or_one_line(encode: Encode, tmp_path: Path, name: str) -> None:
    data = made(encode, tmp_path, name)
    path = tmp_path / f"mutated.{name.split('.')[1]}"
    refusals: list[str] = []
    for number in range(MUTATIONS):
        path.write_bytes(mutated(data, random.Random(f"{name} {number}"), number % 4))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                spec = ("fps:5", "uniform:4", "fps:2,max=6")[number % 3]
                with frames(path, spec, size=32, workers=1 + number % 2) as stream:
                    for chunk in stream:
                        assert chunk.pixels.shape[1:] == (32, 32, 3)
            except MediaError as error:
                refusals.append(str(error))
        said = [str(item.message) for item in caught if issubclass(item.category, MediaWarning)]
        assert len(said) == len(set(said)) <= 2
        assert not any("\n" in line for line in said)
    assert not any("\n" in line for line in refusals)
