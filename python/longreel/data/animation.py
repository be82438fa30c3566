"""Pictures that move (WebP, PNG, AVIF), each shown for as long as the file says."""

from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from longreel.data.errors import MediaError, MediaWarning
from longreel.data.geometry import Fit, check_pixels
from longreel.data.kinds import FORMATS
from longreel.data.pixels import fitted, reason, upright_rgb
from longreel.data.shown import Sample, Shown, Spanned
from longreel.data.spec import FrameSpec

# What browsers make of a picture that is shown for no time.
_UNSAID = Fraction(1, 10)


class Animation(Spanned):
    """As `Video`: `expected`, and `samples()`."""

    def __init__(self, path: Path, spec: FrameSpec, size: int | None, fit: Fit) -> None:
        self._path, self._spec, self._size, self._fit = path, spec, size, fit
        self._length = sum((length for _, length in self._pictures()), Fraction(0))
        if not self._length:
            raise MediaError(f"{path}: no frame could be decoded")
        self.expected = spec.frames(self._length)

    def close(self) -> None:
        """Nothing stays open."""

    def samples(self) -> Iterator[Sample | MediaWarning]:
        """Pictures [h, w, 3] uint8 with their time in seconds; a warning last where the file turned out damaged."""
        step, count = self._spec.step(self._length), self._spec.count
        taken, start = 0, Fraction(0)
        self._damage = ""
        for image, length in self._pictures():
            shown = Shown(partial(self._picture, image), start)
            start += length
            for sample in shown.until(step, taken, start, count):
                taken += 1
                yield sample
        if self._damage:
            yield MediaWarning(f"{self._path}: damaged ({self._damage}); frames delivered: {taken}")

    def _pictures(self) -> Iterator[tuple[Image.Image, Fraction]]:
        """Every picture with the seconds it is shown, as far as they can be read."""
        self._damage = ""
        try:
            with Image.open(self._path, formats=FORMATS) as image:
                check_pixels(self._path, *image.size)
                # A PNG may hold another picture for those that cannot play it.
                for number in range(int(getattr(image, "default_image", False)), getattr(image, "n_frames", 1)):
                    image.seek(number)
                    image.load()
                    milliseconds = Fraction(image.info.get("duration") or 0)
                    yield image, milliseconds / 1000 or _UNSAID
        except (MediaError, GeneratorExit, MemoryError):
            raise
        except Exception as error:
            self._damage = reason(error)

    def _picture(self, image: Image.Image) -> np.ndarray:
        return fitted(self._path, *upright_rgb(image), self._size, self._fit)
