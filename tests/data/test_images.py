from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from longreel.data import MediaError, frames

pytestmark = pytest.mark.fast


@pytest.fixture
def gradient() -> Image.Image:
    y, x = np.mgrid[0:40, 0:60].astype(np.uint8)
    return Image.fromarray(np.stack([x * 4, y * 6, x + y], -1))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp", "a.jpg"])
def test_one_image_is_one_frame(tmp_path: Path, gradient: Image.Image, name: str) -> None:
    path = tmp_path / name
    gradient.save(path)
    (chunk,) = frames(path)
    assert chunk.pixels.shape == (1, 40, 60, 3)
    assert chunk.times.tolist() == [0.0]
    if name.endswith(("png", "bmp", "tiff")):
        assert np.array_equal(chunk.pixels[0].numpy(), np.asarray(gradient))


def test_several_images_come_in_order_whatever_the_spec(tmp_path: Path) -> None:
    paths = []
    for index in range(5):
        paths.append(tmp_path / f"{index}.png")
        Image.new("L", (8 + index, 8), 50 * index).save(paths[-1])
    stream = frames(paths, "uniform:2", size=8, chunk=2)
    assert stream.expected == 5
    chunks = list(stream)
    assert [len(chunk.pixels) for chunk in chunks] == [2, 2, 1]
    assert torch.cat([chunk.pixels[:, 0, 0, 0] for chunk in chunks]).tolist() == [0, 50, 100, 150, 200]
    assert torch.cat([chunk.times for chunk in chunks]).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(MediaError, match="differ in size"):
        list(frames(paths))


def test_crop_keeps_the_middle(tmp_path: Path, gradient: Image.Image) -> None:
    path = tmp_path / "a.png"
    gradient.save(path)
    (chunk,) = frames(path, size=40)
    assert np.array_equal(chunk.pixels[0].numpy(), np.asarray(gradient)[:, 10:50])


def test_orientation_is_applied(tmp_path: Path, gradient: Image.Image) -> None:
    path = tmp_path / "phone.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient.save(path, exif=exif, quality=100, subsampling=0)
    (chunk,) = frames(path)
    assert chunk.pixels.shape == (1, 60, 40, 3)
    assert np.abs(chunk.pixels[0].numpy().astype(int) - np.rot90(np.asarray(gradient), -1).astype(int)).max() < 12


def test_transparency_and_palette_become_rgb(tmp_path: Path) -> None:
    for mode in ("RGBA", "P", "1", "I;16"):
        path = tmp_path / f"{mode.replace(';', '')}.png"
        Image.new(mode, (5, 4)).save(path)
        (chunk,) = frames(path)
        assert chunk.pixels.shape == (1, 4, 5, 3)


def test_an_animated_gif_is_a_video(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    pictures = [Image.new("L", (16, 16), 40 * index) for index in range(5)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=200)
    count = sum(len(chunk.pixels) for chunk in frames(path, "fps:5"))
    assert count == 5
