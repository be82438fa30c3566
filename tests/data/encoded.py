"""Small videos whose frames say which they are."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

Encode = Callable[..., Path]


def picture(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A flat grey that tells which frame it is (10, 14, 18, ...), under noise that gives the coder work."""
    image = np.full((height, width, 3), (10 + 4 * index) % 256, np.uint8)
    image[: height // 4] = np.random.default_rng(index).integers(0, 256, (height // 4, width, 1))
    return image


def grey(pixels: torch.Tensor) -> list[int]:
    """Which frame each picture [f, h, w, 3] is, read from the flat part."""
    flat = pixels[:, pixels.shape[1] // 2 :].float().mean((1, 2, 3))
    return [round((value.item() - 10) / 4) for value in flat]


@pytest.fixture(scope="session")
def encode(tmp_path_factory: pytest.TempPathFactory) -> Encode:
    """encode("a.mp4", frames=50, rate=25, stamps=None, ...) -> path of a small real video."""
    folder = tmp_path_factory.mktemp("encoded")

    def write(
        name: str,
        *,
        frames: int = 50,
        rate: int = 25,
        width: int = 64,
        height: int = 48,
        codec: str = "libx264",
        stamps: Iterable[int] | None = None,
        options: dict[str, str] | None = None,
        coder: dict[str, str] | None = None,
        audio: bool = False,
        video: bool = True,
        make: Callable[[int, int, int], np.ndarray] = picture,
        aspect: Fraction | None = None,
    ) -> Path:
        path = folder / name
        with av.open(str(path), "w", options=options or {}) as out:
            if audio:
                sound = out.add_stream("aac", rate=16000, layout="mono")
            if video:
                stream = out.add_stream(codec, rate=rate)
                stream.width, stream.height = width, height
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
                stream.codec_context.time_base = Fraction(1, rate)
                stream.bit_rate = 4_000_000
                if aspect is not None:
                    stream.codec_context.sample_aspect_ratio = aspect
                if codec == "libx264":
                    stream.options = {"preset": "ultrafast", "g": "10", "qp": "10", **(coder or {})}
                elif coder:
                    stream.options = coder
                for index, stamp in enumerate(stamps if stamps is not None else range(frames)):
                    frame = av.VideoFrame.from_ndarray(make(index, height, width), "rgb24")
                    frame.pts, frame.time_base = stamp, Fraction(1, rate)
                    out.mux(stream.encode(frame))
                out.mux(stream.encode(None))
            if audio:
                wave = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
                wave.sample_rate, wave.pts = 16000, 0
                out.mux(sound.encode(wave))
                out.mux(sound.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def clip(encode: Encode) -> Path:
    """Two seconds at 25 frames a second."""
    return encode("clip.mp4", options={"movflags": "faststart"})


BITS = 10


def bars(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """The number of a frame in two rows of five blocks, bright for 1 and dark for 0; [h, w, 3]."""
    bits = np.array([235 if index >> bit & 1 else 20 for bit in range(BITS)], np.uint8).reshape(2, BITS // 2)
    rows, columns = np.arange(height) * 2 // height, np.arange(width) * (BITS // 2) // width
    return np.repeat(bits[rows][:, columns, None], 3, 2)


def numbers(pixels: torch.Tensor) -> list[int]:
    """Which frame each picture [f, h, w, 3] of `bars` is."""
    _, height, width, _ = pixels.shape
    rows = torch.tensor([height // 4, 3 * height // 4])
    columns = (torch.arange(BITS // 2) * 2 + 1) * width // BITS
    # [f, 2, 5]
    bits = pixels[:, rows][:, :, columns, 0] > 127
    return (bits.flatten(1).int() @ (1 << torch.arange(BITS, dtype=torch.int32))).tolist()


def packets(
    frames: int, codec: str = "libx264", options: dict[str, str] | None = None, rate: int = 25
) -> list[av.Packet]:
    """`bars` 0, 1, ... coded, stamped in frames."""
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = 64, 48, "yuv420p"
    context.time_base, context.framerate = Fraction(1, rate), Fraction(rate)
    context.options = (
        {"preset": "ultrafast", "g": "10", "bf": "0", **(options or {})} if codec == "libx264" else options or {}
    )
    coded = []
    for index in range(frames):
        frame = av.VideoFrame.from_ndarray(bars(index), "rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, rate)
        coded += context.encode(frame)
    return coded + context.encode(None)
