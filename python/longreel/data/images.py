"""Still images, read as frames."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from longreel.data.errors import MediaError
from longreel.data.geometry import Fit, Geometry

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")


def is_image(path: Path) -> bool:
    """Whether the file's bytes, not its name, say that it is a still picture. An animated GIF is a video."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return not (image.format == "GIF" and getattr(image, "is_animated", False))
    except UnidentifiedImageError:
        return False
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return True


class Images:
    """Several images as one sequence of frames; a frame's time is its place in the sequence."""

    def __init__(self, paths: Sequence[Path], size: int | None, fit: Fit) -> None:
        self._paths, self._size, self._fit = paths, size, fit
        self.expected = len(paths)

    def close(self) -> None:
        """Nothing stays open between two images."""

    def samples(self) -> Iterator[tuple[np.ndarray, float]]:
        """Pictures [h, w, 3] uint8, upright, with their index."""
        shape = None
        for index, path in enumerate(self._paths):
            picture = self._read(path)
            shape = shape or picture.shape
            if picture.shape != shape:
                raise MediaError(f"{path}: images differ in size, {picture.shape[:2]} after {shape[:2]}: give size=")
            yield picture, float(index)

    def _read(self, path: Path) -> np.ndarray:
        try:
            with Image.open(path, formats=_FORMATS) as image:
                geometry = Geometry.of(path, *image.size, self._size, self._fit)
                upright = ImageOps.exif_transpose(image).convert("RGB")
        except MediaError:
            raise
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise MediaError(f"{path}: the image is damaged ({error})") from None
        if upright.size != image.size:
            geometry = Geometry.of(path, *upright.size, self._size, self._fit)
        scaled = upright.resize((geometry.width, geometry.height), Image.Resampling.BICUBIC)
        box = (geometry.left, geometry.top, geometry.left + geometry.crop_width, geometry.top + geometry.crop_height)
        # [h, w, 3]
        return np.asarray(scaled.crop(box))
