"""Still images, read as frames."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

from longreel.data.container import open_container, video_stream
from longreel.data.errors import MediaError, check_room
from longreel.data.geometry import Fit, check_pixels
from longreel.data.heif import read_heif
from longreel.data.kinds import FORMATS, Kind, is_heif
from longreel.data.picture import Aspect, View
from longreel.data.pixels import Unshowable, fitted, reason, upright_rgb
from longreel.data.shown import Spanned

_SUBFILE_TYPE, _REDUCED = 254, 1


class Images(Spanned):
    """Several images as one sequence of frames; a frame's time is its place in the sequence.

    The pages of a TIFF are images one after the other; the smaller copies that it may hold of them are not.
    """

    def __init__(self, paths: Sequence[Path], kinds: Sequence[Kind], size: int | None, fit: Fit) -> None:
        self._paths, self._kinds, self._size, self._fit = paths, kinds, size, fit
        self.expected = sum(_pages(path) if kind is Kind.STILL else 1 for path, kind in zip(paths, kinds, strict=True))

    def close(self) -> None:
        """Nothing stays open between two images."""

    def samples(self) -> Iterator[tuple[np.ndarray, float]]:
        """Pictures [h, w, 3] uint8, upright, with their index."""
        shape, index = None, 0
        for path, kind in zip(self._paths, self._kinds, strict=True):
            pictures = self._read(path) if kind is Kind.STILL else self._read_by_ffmpeg(path)
            for picture in pictures:
                shape = shape or picture.shape
                if picture.shape != shape:
                    raise MediaError(
                        f"{path}: images differ in size, {picture.shape[:2]} after {shape[:2]}: give size="
                    )
                yield picture, float(index)
                index += 1

    def _read(self, path: Path) -> Iterator[np.ndarray]:
        try:
            with Image.open(path, formats=FORMATS) as image:
                for page in _page_numbers(image):
                    image.seek(page)
                    check_pixels(path, *image.size)
                    yield fitted(path, *upright_rgb(image), self._size, self._fit)
        except (MediaError, GeneratorExit, MemoryError):
            raise
        except Unshowable as error:
            raise MediaError(f"{path}: {error}") from None
        except Exception as error:
            raise MediaError(f"{path}: the image is damaged ({reason(error)})") from None

    def _read_by_ffmpeg(self, path: Path) -> Iterator[np.ndarray]:
        if is_heif(path):
            pixels, width = read_heif(path)
            yield fitted(path, Image.fromarray(pixels), width, self._size, self._fit)
            return
        with open_container(path) as container:
            stream = video_stream(path, container)
            aspect = Aspect(stream)
            try:
                frame = next(container.decode(stream), None)
            except av.error.FFmpegError as error:
                check_room(error)
                raise MediaError(f"{path}: the image is damaged ({error.strerror or error})") from None
            if frame is None:
                raise MediaError(f"{path}: the image is damaged (nothing could be decoded)")
            yield View(path, self._size, self._fit).maker(frame, aspect(frame))()


def _pages(path: Path) -> int:
    try:
        with Image.open(path, formats=FORMATS) as image:
            return len(_page_numbers(image))
    except Exception:
        # Reading it will say what is wrong.
        return 1


def _page_numbers(image: Image.Image) -> list[int]:
    if image.format != "TIFF" or getattr(image, "n_frames", 1) == 1:
        return [0]
    whole = []
    for page in range(getattr(image, "n_frames", 1)):
        image.seek(page)
        if not int(getattr(image, "tag_v2", {}).get(_SUBFILE_TYPE, 0)) & _REDUCED:
            whole.append(page)
    image.seek(0)
    return whole or [0]
