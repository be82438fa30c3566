"""Pictures as they are meant to be seen: turned, mirrored, on square pixels, one size throughout."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from encoded import Encode
from foreign import with_matrix

from longreel.data import MediaWarning, frames

pytestmark = pytest.mark.fast

# Where x and y go: x' = a x + c y, y' = b x + d y.
MATRICES = [
    (1, 0, 0, 1),
    (-1, 0, 0, 1),
    (1, 0, 0, -1),
    (-1, 0, 0, -1),
    (0, 1, 1, 0),
    (0, 1, -1, 0),
    (0, -1, 1, 0),
    (0, -1, -1, 0),
]


def corners(index: int, height: int, width: int) -> np.ndarray:
    """Four greys that tell the corners apart; [h, w, 3]."""
    picture = np.full((height, width, 3), 40, np.uint8)
    picture[: height // 2, width // 2 :] = 100
    picture[height // 2 :, : width // 2] = 160
    picture[height // 2 :, width // 2 :] = 220
    return picture


def circle(index: int, height: int, width: int) -> np.ndarray:
    """What a circle looks like in pixels twice as wide as high, where width is twice the height or the same; [h, w, 3]."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.hypot(2 * (x - width / 2), y - height / 2) < 0.45 * height
    return np.repeat(np.where(inside, 235, 20)[..., None], 3, 2).astype(np.uint8)


def expected(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Pixel by pixel."""
    a, b, c, d = matrix
    height, width = picture.shape[:2]
    out = np.zeros((height, width, 3) if a else (width, height, 3), np.uint8)
    for y in range(height):
        for x in range(width):
            to_x, to_y = a * x + c * y, b * x + d * y
            out[to_y - (b + d < 0), to_x - (a + c < 0)] = picture[y, x]
    return out


def shown(path: Path, **options: object) -> torch.Tensor:
    return torch.cat([chunk.pixels for chunk in frames(path, "fps:25", **options)])  # type: ignore[arg-type]


def extent(picture: torch.Tensor) -> tuple[int, int]:
    """Height and width of what is bright in a picture [h, w, 3]."""
    bright = picture[..., 0] > 127
    return int(bright.any(1).sum()), int(bright.any(0).sum())


@pytest.mark.parametrize("matrix", MATRICES)
def test_all_eight_orientations(encode: Encode, tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    plain = encode("corners.mp4", frames=12, make=corners)
    path = tmp_path / "turned.mp4"
    path.write_bytes(with_matrix(plain.read_bytes(), matrix))
    upright = shown(plain)
    for workers in (1, 3):
        turned = shown(path, workers=workers)
        for one, other in zip(upright, turned, strict=True):
            assert np.array_equal(expected(one.numpy(), matrix), other.numpy())
    assert shown(path, size=16).shape == (12, 16, 16, 3)


def test_an_angle_between_is_told(encode: Encode, tmp_path: Path) -> None:
    path = tmp_path / "askew.mp4"
    path.write_bytes(
        with_matrix(encode("corners.mp4", frames=12, make=corners).read_bytes(), (0.5, 0.866, -0.866, 0.5))
    )
    with pytest.warns(MediaWarning, match="no multiple of 90") as caught:
        assert shown(path).shape == (12, 64, 48, 3)
    assert len(caught) == 1


@pytest.mark.parametrize("name", ["wide.mp4", "wide.mkv", "wide.ts", "wide.avi"])
@pytest.mark.parametrize("workers", [1, 3])
def test_pixels_that_are_not_square(encode: Encode, name: str, workers: int) -> None:
    codec = "mpeg4" if name == "wide.avi" else "libx264"
    path = encode(name, frames=24, make=circle, aspect=Fraction(2), codec=codec)
    whole = shown(path, workers=workers)
    assert whole.shape == (24, 48, 128, 3)
    for picture in (whole[0], whole[-1], shown(path, size=48, workers=workers)[0]):
        height, width = extent(picture)
        assert abs(height - width) <= 2
        assert height > 38
    stretched = shown(path, size=48, fit="stretch", workers=workers)[0]
    assert extent(stretched)[1] < 0.5 * extent(stretched)[0]


def test_pixels_that_are_high(encode: Encode) -> None:
    path = encode("high.mp4", frames=2, width=64, height=32, aspect=Fraction(1, 2), make=lambda *size: circle(*size))
    # Nothing is thrown away: the side that is short grows.
    assert shown(path).shape == (2, 64, 64, 3)


def test_wide_pixels_that_are_turned(encode: Encode, tmp_path: Path) -> None:
    path = tmp_path / "both.mp4"
    path.write_bytes(
        with_matrix(encode("wide.mp4", frames=24, make=circle, aspect=Fraction(2)).read_bytes(), (0, 1, -1, 0))
    )
    for picture in (shown(path)[0], shown(path, size=48)[0]):
        height, width = extent(picture)
        assert abs(height - width) <= 2
    assert shown(path).shape == (24, 128, 48, 3)


@pytest.mark.parametrize("second", [{"aspect": Fraction(2)}, {"width": 128, "height": 96}, {"width": 96, "height": 48}])
def test_a_change_on_the_way(encode: Encode, tmp_path: Path, second: dict[str, object]) -> None:
    """Size or shape of pixels: every picture has the first one's size, its middle filled."""
    parts = [encode("one.ts", frames=10, make=circle), encode("two.ts", frames=10, make=circle, **second)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    pictures = shown(path)
    assert pictures.shape == (20, 48, 64, 3)
    squeezed = [extent(picture)[1] / extent(picture)[0] for picture in pictures]
    assert squeezed[2] == pytest.approx(0.5, abs=0.05)
    last = 1.0 if "aspect" in second else 0.5
    assert squeezed[18] == pytest.approx(last, abs=0.07)
    assert shown(path, size=32).shape == (20, 32, 32, 3)


def test_what_is_hidden_stays_hidden(tmp_path: Path) -> None:
    """Transparent video is shown on white."""
    path = tmp_path / "clear.mov"
    pixels = np.zeros((48, 64, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[:, 32:, 3] = 255
    pixels[:24, :32, 3] = 128
    with av.open(str(path), "w") as out:
        stream = out.add_stream("qtrle", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "argb"
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format="argb")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    pictures = shown(path)
    assert len(pictures) == 3
    assert pictures[0, 40, 10].tolist() == [255, 255, 255]
    assert pictures[0, 40, 50].tolist() == [200, 0, 0]
    assert pictures[0, 10, 10].tolist() == pytest.approx([227, 127, 127], abs=1)
