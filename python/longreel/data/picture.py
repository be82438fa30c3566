"""From a decoded frame to pixels as they are meant to be shown: upright, on square pixels, opaque, of one size."""

import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import Interpolation

from longreel.data.errors import MediaError
from longreel.data.geometry import Fit, Geometry, square_pixels
from longreel.measure.cpu import part_of_thread

# Without the last two, swscale darkens some sizes by one or two levels.
SCALING = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)
# Where swscale has threads, it begins some for every picture, which costs as much as the picture.
ALONE: dict[str, Any] = {"threads": 1} if "threads" in (av.VideoFrame.reformat.__doc__ or "") else {}
# A turn that is further than this (a tenth of a right angle) from a multiple of 90 degrees is worth a word.
_ASKEW = 0.16

# (a, b, c, d): what stands at x, y is shown at x' = a x + c y, y' = b x + d y.
Matrix = tuple[int, int, int, int]
UPRIGHT: Matrix = (1, 0, 0, 1)
# By quarter turns anticlockwise.
_TURNS: tuple[Matrix, ...] = (UPRIGHT, (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))


class View:
    """Makes pictures [h, w, 3] uint8 of frames; the first one gives all of them their size.

    Whatever changes on the way (size, shape of pixels, orientation) is brought to that size by `fit`.
    """

    def __init__(self, path: Path, size: int | None, fit: Fit) -> None:
        self._path, self._size, self._fit = path, size, fit
        self._target: tuple[int, int] | None = None
        self._first = threading.Lock()
        self.askew = False
        """Whether a frame is to be turned by an angle that is no multiple of 90 degrees."""

    def fix(self, frame: av.VideoFrame, aspect: Fraction) -> None:
        """`frame` is the first; `aspect` the width of its pixels over their height."""
        if self._target is None and self._size is None:
            width, height = square_pixels(self._path, frame.width, frame.height, aspect)
            turned = not self._orientation(frame)[0]
            self._target = (height, width) if turned else (width, height)

    def maker(self, frame: av.VideoFrame, aspect: Fraction) -> Callable[[], np.ndarray]:
        self.fix(frame, aspect)
        return lambda: self._timed(frame, aspect)

    def _timed(self, frame: av.VideoFrame, aspect: Fraction) -> np.ndarray:
        with part_of_thread("resize"):
            return self._picture(frame, aspect)

    def _picture(self, frame: av.VideoFrame, aspect: Fraction) -> np.ndarray:
        matrix = self._orientation(frame)
        wanted = (self._size, self._size) if self._size is not None else self._target
        if wanted is not None and not matrix[0]:
            wanted = wanted[::-1]
        geometry = Geometry.onto(self._path, frame.width, frame.height, aspect, wanted, self._fit)
        if _has_alpha(frame):
            frame = _on_white(frame)
        scaled = self._rgb(frame, geometry.width, geometry.height)
        top, left = geometry.top, geometry.left
        # [h, w, 3]
        return oriented(scaled[top : top + geometry.crop_height, left : left + geometry.crop_width], matrix)

    def _rgb(self, frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
        """[height, width, 3]."""
        try:
            return frame.reformat(width, height, "rgb24", interpolation=SCALING, **ALONE).to_ndarray()
        except (av.error.FFmpegError, ValueError):
            # FFmpeg has one error for both: where there is no room for much more than a frame either, MemoryError.
            try:
                np.empty((1 << 26) + 16 * width * height, np.uint8)
            except MemoryError:
                raise MemoryError(f"out of memory while a frame of {self._path} was converted") from None
            raise MediaError(
                f"{self._path}: pixels of {frame.format.name} in FFmpeg's colour space {frame.colorspace} cannot be shown"
            ) from None

    def _orientation(self, frame: av.VideoFrame) -> Matrix:
        # Not frame.side_data, which the frame keeps and which keeps the frame: the decoder's pictures would stay until the next
        # collection of garbage, hundreds of them.
        container: Any = SideDataContainer
        try:
            a, b, _, c, d = np.frombuffer(bytes(container(frame)["DISPLAYMATRIX"]), np.int32)[:5].tolist()
        except KeyError:
            return UPRIGHT
        except ValueError:
            # Beside side data that PyAV has no name for only the angle can be asked.
            a, b, c, d = _TURNS[round(frame.rotation / 90) % 4]
        matrix, off = nearest_orientation(a, b, c, d)
        self.askew |= off > _ASKEW
        return matrix


def nearest_orientation(a: float, b: float, c: float, d: float) -> tuple[Matrix, float]:
    """The one of the eight orientations nearest to x' = a x + c y, y' = b x + d y; and how far it is, 0 for not at all."""
    long, short = (abs(a) + abs(d), abs(b) + abs(c))
    if not long + short:
        return UPRIGHT, 0.0
    off = min(long, short) / max(long, short)
    if long >= short:
        return (-1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1), off
    return (0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0), off


def oriented(picture: np.ndarray, matrix: Matrix) -> np.ndarray:
    """`picture` [h, w, 3] turned and mirrored: without a copy."""
    a, b, c, d = matrix
    if a:
        return picture[::d, ::a]
    return picture.swapaxes(0, 1)[::b, ::c]


def _has_alpha(frame: av.VideoFrame) -> bool:
    return frame.format.has_palette or any(component.is_alpha for component in frame.format.components)


def _on_white(frame: av.VideoFrame) -> av.VideoFrame:
    # [h, w, 4]
    pixels = frame.reformat(format="rgba", **ALONE).to_ndarray()
    return av.VideoFrame.from_ndarray(on_white(pixels), "rgb24")


def on_white(pixels: np.ndarray) -> np.ndarray:
    """RGBA [h, w, 4] uint8 over white, [h, w, 3]: what is hidden behind transparency stays hidden."""
    alpha = pixels[..., 3:]
    if alpha.all() and alpha.min() == 255:
        return np.ascontiguousarray(pixels[..., :3])
    opaque = pixels[..., :3].astype(np.uint16) * alpha + (255 - alpha.astype(np.uint16)) * 255
    return ((opaque + 127) // 255).astype(np.uint8)


class Aspect:
    """The shape of a stream's pixels, width over height, by frame: the container's word, else the coder's.

    The coder's word can change where a key frame does, and is asked there alone.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        self._coder = stream.codec_context
        self._start = self._coder.sample_aspect_ratio
        self._said = stream.sample_aspect_ratio
        self._now = self._ask()

    def __call__(self, frame: av.VideoFrame) -> Fraction:
        if frame.key_frame:
            self._now = self._ask()
        return self._now

    def _ask(self) -> Fraction:
        now = self._coder.sample_aspect_ratio
        ratio = now if now != self._start and self._said in (None, self._start) else self._said
        return Fraction(ratio) if ratio and Fraction(1, 16) <= ratio <= 16 else Fraction(1)
