"""Foreign pictures: what moves and what does not, any depth, transparency, orientation."""

import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from encoded import bars, numbers
from heif_files import box, clap, heic, imir, irot, pasp
from PIL import Image

from longreel.data import MediaError, MediaWarning, frames

pytestmark = pytest.mark.fast


def shown(path: Path | list[Path], spec: str = "fps:1", **options: object) -> torch.Tensor:
    return torch.cat([chunk.pixels for chunk in frames(path, spec, **options)])  # type: ignore[arg-type]


def still(path: Path) -> bool:
    with frames(path) as stream:
        assert (stream.expected == 1) or not stream.still
        return stream.still


def refused(path: Path, match: str) -> None:
    with pytest.raises(MediaError, match=match) as error:
        list(frames(path))
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


PICTURES = [Image.fromarray(bars(index)) for index in range(8)]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.avif"])
def test_a_picture_that_moves_is_a_video(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    options = {"lossless": True} if name == "a.webp" else {"quality": 95} if name == "a.avif" else {}
    PICTURES[0].save(path, save_all=True, append_images=PICTURES[1:], duration=500, **options)
    with frames(path, "fps:1") as stream:
        assert not stream.still
        assert stream.expected == 4
    assert numbers(shown(path, "fps:2")) == list(range(8))
    assert numbers(shown(path, "fps:1")) == [0, 2, 4, 6]
    assert numbers(shown(path, "uniform:4")) == [0, 2, 4, 6]
    assert shown(path, size=32).shape == (4, 32, 32, 3)
    times = [time for chunk in frames(path, "fps:2") for time in chunk.times.tolist()]
    assert times == pytest.approx([index / 2 for index in range(8)], abs=0.001)


def test_every_picture_is_shown_for_its_own_time(tmp_path: Path) -> None:
    for name in ("a.webp", "a.png"):
        path = tmp_path / name
        options = {"lossless": True} if name == "a.webp" else {}
        PICTURES[0].save(path, save_all=True, append_images=PICTURES[1:4], duration=[1000, 3000, 500, 500], **options)
        assert numbers(shown(path, "fps:2")) == [0, 0, 1, 1, 1, 1, 1, 1, 2, 3]


def test_the_picture_for_those_that_cannot_play_is_not_played(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    PICTURES[7].save(path, save_all=True, append_images=PICTURES[:4], duration=1000, default_image=True)
    assert numbers(shown(path)) == [0, 1, 2, 3]


def test_a_picture_that_moves_and_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    PICTURES[0].save(path, save_all=True, append_images=PICTURES[1:], duration=1000)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with pytest.warns(MediaWarning, match="damaged") as caught:
        seen = numbers(shown(path))
    assert len(caught) == 1
    assert seen == list(range(len(seen)))
    assert 2 <= len(seen) <= 6


def jpeg(index: int) -> bytes:
    out = io.BytesIO()
    PICTURES[index].save(out, "jpeg", quality=90)
    return out.getvalue()


def png(index: int) -> bytes:
    out = io.BytesIO()
    PICTURES[index].save(out, "png")
    return out.getvalue()


def ppm(index: int) -> bytes:
    out = io.BytesIO()
    PICTURES[index].save(out, "ppm")
    return out.getvalue()


@pytest.mark.parametrize("name", ["a.mjpeg", "a.jpg", "camera"])
@pytest.mark.parametrize("between", [b"", bytes(5)])
def test_pictures_in_a_row_are_a_video(tmp_path: Path, name: str, between: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(between.join(jpeg(index) for index in range(8)))
    assert not still(path)
    assert numbers(shown(path, "fps:25")) == list(range(8))


@pytest.mark.parametrize("coded", [png, ppm])
def test_other_pictures_in_a_row(tmp_path: Path, coded: object) -> None:
    path = tmp_path / "row"
    path.write_bytes(b"".join(coded(index) for index in range(8)))  # type: ignore[operator]
    assert numbers(shown(path, "fps:25")) == list(range(8))


def test_what_stands_behind_a_picture_makes_no_video_of_it(tmp_path: Path) -> None:
    """A phone's short film, the preview in the header, a second eye, padding."""
    preview = Image.Exif()
    preview[0x010F] = "maker"
    with_preview = io.BytesIO()
    PICTURES[3].save(with_preview, "jpeg", comment=jpeg(5), exif=preview)
    second_eye = io.BytesIO()
    PICTURES[3].save(second_eye, "MPO", save_all=True, append_images=[PICTURES[4]])
    tail = b"\0\0\0\x18ftypmp42" + bytes(100) + jpeg(4)
    for number, data in enumerate(
        (jpeg(3) + tail, with_preview.getvalue(), second_eye.getvalue(), jpeg(3) + bytes(9000))
    ):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(data)
        assert still(path)
        assert numbers(shown(path)) == [3]


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.png", "a.webp", "a.avif", "a.jp2", "a.gif", "a.bmp", "a.tiff", "a.ppm", "a.tga", "a.pcx"]
)
def test_a_still_is_a_still(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    PICTURES[6].save(path)
    if name == "a.tga":
        refused(path, "not a video or image")
        return
    assert still(path)
    assert numbers(shown(path)) == [6]
    assert shown([path, path], size=16).shape == (2, 16, 16, 3)


def test_one_picture_in_a_film_is_a_film(tmp_path: Path) -> None:
    path = tmp_path / "one.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(bars(3), "rgb24")
        frame.pts, frame.time_base = 0, Fraction(1)
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert not still(path)


def test_pages_come_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "pages.tiff"
    pages = [Image.fromarray(bars(index)) for index in range(5)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    other = tmp_path / "other.png"
    PICTURES[7].save(other)
    with frames([path, other]) as stream:
        assert (stream.still, stream.expected) == (True, 6)
        chunks = list(stream)
    assert numbers(torch.cat([chunk.pixels for chunk in chunks])) == [0, 1, 2, 3, 4, 7]
    assert [time for chunk in chunks for time in chunk.times.tolist()] == list(range(6))


def ramp(top: float, dtype: type) -> np.ndarray:
    """0 ... top over 256 columns; [4, 256]."""
    return np.repeat(np.linspace(0, top, 256)[None], 4, 0).astype(dtype)


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.jp2", "a.pgm"])
def test_sixteen_bits(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    values = ramp(65535, np.uint16)
    if name == "a.pgm":
        path.write_bytes(b"P5 256 4 65535\n" + values.byteswap().tobytes())
    elif name == "a.jp2":
        Image.fromarray(values).save(path, irreversible=False)
    else:
        Image.fromarray(values).save(path)
    assert np.array_equal(shown(path)[0].numpy(), np.repeat((values >> 8).astype(np.uint8)[..., None], 3, 2))


def test_sixteen_bits_of_a_negative(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    values = ramp(65535, np.uint16)
    Image.fromarray(values).save(path, tiffinfo={262: 0})
    with Image.open(path) as written:
        assert (written.mode, written.tag_v2[262]) == ("I;16", 0)  # type: ignore[attr-defined]
    assert np.array_equal(shown(path)[0].numpy(), 255 - np.repeat((values >> 8).astype(np.uint8)[..., None], 3, 2))


def test_a_density_that_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.new("RGB", (8, 6), (200, 0, 0)).save(path, dpi=(100, 100))
    data, ratio = path.read_bytes(), struct.pack("<II", 100, 1)
    assert data.count(ratio) == 2
    path.write_bytes(data.replace(ratio, bytes(8)))
    assert shown(path).shape == (1, 6, 8, 3)


def test_sixteen_bits_of_colour(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    rows = np.stack([ramp(65535, np.uint16), ramp(65535, np.uint16)[:, ::-1], ramp(30000, np.uint16)], -1)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", 256, 4, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    )
    assert np.abs(shown(path)[0].numpy().astype(int) - (rows >> 8)).max() <= 1


def test_floats(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(ramp(1, np.float32)).save(path)
    assert np.array_equal(shown(path)[0, ..., 0].numpy(), np.rint(ramp(1, np.float32) * 255).astype(np.uint8))
    for values in (ramp(255, np.float32), ramp(1, np.float32) - 0.5, np.full((4, 4), np.nan, np.float32)):
        Image.fromarray(values).save(path)
        refused(path, "float pixels run from .* they are shown from 0 to 1")


def test_integers_of_no_agreed_range(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(ramp(2**31 - 1, np.int32)).save(path)
    refused(path, "integer pixels of 32 bits")


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGBX"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tiff"
    PICTURES[5].convert(mode).save(path)
    assert numbers(shown(path)) == [5]
    if mode == "CMYK":
        PICTURES[5].convert(mode).save(tmp_path / "a.jpg", quality=95)
        assert numbers(shown(tmp_path / "a.jpg")) == [5]


def test_lab_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.new("LAB", (8, 8), (50, 0, 0)).save(path)
    refused(path, "mode LAB cannot be shown")


@pytest.mark.parametrize(
    "name", ["a.png", "a.webp", "a.tiff", "a.avif", "a.gif", "moves.png", "moves.webp", "moves.gif"]
)
def test_transparent_is_white(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    pixels = np.zeros((48, 64, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[:, 32:, 3] = 255
    image = Image.fromarray(pixels)
    options: dict[str, object] = (
        {"quality": 100} if name == "a.avif" else {"lossless": True, "exact": True} if "webp" in name else {}
    )
    if name.startswith("moves"):
        more = Image.fromarray(np.roll(pixels, 1, 0) // np.array([2, 1, 1, 1], np.uint8))
        image.save(path, save_all=True, append_images=[more], duration=1000, disposal=2, **options)
    else:
        image.save(path, **options)
    picture = shown(path)[0].int()
    assert (picture[:, :28] >= 250).all()
    assert ((picture[:, 36:] - torch.tensor([200, 0, 0])).abs() <= 6).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA", "1", "I;16"])
def test_transparency_of_every_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    image = Image.new("L", (8, 8), 0).convert(mode) if mode != "I;16" else Image.new(mode, (8, 8), 0)
    hidden = (0, 0, 0) if mode == "RGB" else 0
    if mode == "LA":
        Image.new("LA", (8, 8), (0, 0)).save(path)
    else:
        image.save(path, transparency=hidden)
    assert (shown(path) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tiff", "a.webp", "a.avif"])
def test_orientation_in_the_header(tmp_path: Path, orientation: int, name: str) -> None:
    path = tmp_path / name
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = 60, 120, 180
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(path, exif=exif)
    turn = [
        picture, picture[:, ::-1], picture[::-1, ::-1], picture[::-1], picture.swapaxes(0, 1), np.rot90(picture, -1),
        np.rot90(picture, 2).swapaxes(0, 1), np.rot90(picture),
    ]  # fmt: skip
    assert np.abs(shown(path)[0].numpy().astype(int) - turn[orientation - 1]).mean() < 4


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.png", {"dpi": (200, 100)}), ("a.tiff", {"dpi": (204, 102)}), ("a.jpg", {"dpi": (144, 72)})],
)
def test_pictures_of_pixels_that_are_not_square(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    path = tmp_path / name
    Image.new("RGB", (80, 40)).save(path, **options)
    assert shown(path).shape == (1, 80, 80, 3)
    Image.new("RGB", (80, 40)).save(path, dpi=(72, 72))
    assert shown(path).shape == (1, 40, 80, 3)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([], lambda p: p),
        ([irot(1)], np.rot90),
        ([irot(2)], lambda p: np.rot90(p, 2)),
        ([irot(3)], lambda p: np.rot90(p, 3)),
        ([imir(0)], lambda p: p[::-1]),
        ([imir(1)], lambda p: p[:, ::-1]),
        ([irot(1), imir(1)], lambda p: np.rot90(p)[:, ::-1]),
        ([irot(3), imir(0)], lambda p: np.rot90(p, 3)[::-1]),
        ([clap(40, 20, 4, -6)], lambda p: aperture(p)),
        ([clap(40, 20, 4, -6), irot(1)], lambda p: np.rot90(aperture(p))),
    ],
)
def test_heic(tmp_path: Path, turns: list[bytes], expected: object) -> None:
    y, x = np.mgrid[:64, :64]
    tiles = [
        np.stack([x * 3 % 256, y * 3 % 256, np.full_like(x, 40 * number)], -1).astype(np.uint8) for number in range(6)
    ]
    one = heic(tmp_path / "one.heic", tiles[:1], 1, turns)
    assert still(one)
    assert np.abs(shown(one)[0].numpy().astype(int) - expected(tiles[0])).max() <= 6  # type: ignore[operator]
    grid = heic(tmp_path / "grid.heic", tiles, 3, turns, (180, 120))
    whole = np.concatenate([np.concatenate(tiles[:3], 1), np.concatenate(tiles[3:], 1)])[:120, :180]
    assert still(grid)
    assert np.abs(shown(grid)[0].numpy().astype(int) - expected(whole)).max() <= 6  # type: ignore[operator]
    assert shown([one, grid], size=32).shape == (2, 32, 32, 3)


def aperture(picture: np.ndarray) -> np.ndarray:
    """40 x 20 out of the middle, but for two pixels to the right and three up."""
    top, left = (picture.shape[0] - 20) // 2 - 3, (picture.shape[1] - 40) // 2 + 2
    return picture[top : top + 20, left : left + 40]


def test_a_heic_whose_pixels_are_not_square(tmp_path: Path) -> None:
    for turns, size in (
        ([pasp(2, 1)], (64, 128)),
        ([pasp(2, 1), irot(1)], (128, 64)),
        ([irot(1), pasp(1, 1)], (64, 64)),
    ):
        path = heic(tmp_path / "a.heic", [bars(3, 64, 64)], 1, turns)
        assert shown(path).shape == (1, *size, 3)


@pytest.mark.parametrize("aperture", [clap(80, 20), clap(40, 20, 60), box(b"clap", bytes(32))])
def test_a_heic_with_an_aperture_outside(tmp_path: Path, aperture: bytes) -> None:
    path = heic(tmp_path / "a.heic", [bars(3, 64, 64)], 1, [aperture])
    with pytest.raises(MediaError, match="the image is damaged"):
        shown(path)


def test_a_heic_that_is_cut(tmp_path: Path) -> None:
    path = heic(tmp_path / "a.heic", [bars(3, 64, 64)] * 4, 2, [], (128, 128))
    data = path.read_bytes()
    for share in (0.02, 0.2, 0.6, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        refused(path, "damaged|not a video or image")
