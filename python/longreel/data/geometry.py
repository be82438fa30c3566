"""How a picture becomes a tower's input, and how large it may be."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

from longreel.data.errors import MediaError

Fit = Literal["crop", "stretch"]
MAX_PIXELS = 16384 * 8192


def check_pixels(path: Path, width: int, height: int) -> None:
    """Refuse sizes that no camera makes before anything of that size is allocated."""
    if width < 1 or height < 1:
        raise MediaError(f"{path}: not a video or image that can be read (its header gives no size)")
    if width * height > MAX_PIXELS:
        raise MediaError(f"{path}: a picture of {width} x {height} has more than {MAX_PIXELS} pixels")


@dataclass(frozen=True, slots=True)
class Geometry:
    """Scale a picture to `width` x `height`, then cut `crop_width` x `crop_height` out of the middle."""

    width: int
    height: int
    crop_width: int
    crop_height: int

    @classmethod
    def of(cls, path: Path, width: int, height: int, size: int | None, fit: Fit) -> "Geometry":
        """The geometry for a source of `width` x `height` on square pixels.

        size None keeps the source as it is. fit "crop" scales the short side to `size`, keeping the aspect, and cuts
        the centred square, as CLIP's and LLaMA-VID's processors do; "stretch" scales to the square, as Video-LLaMA's
        does.
        """
        return cls.onto(path, width, height, Fraction(1), None if size is None else (size, size), fit)

    @classmethod
    def onto(
        cls, path: Path, width: int, height: int, aspect: Fraction, wanted: tuple[int, int] | None, fit: Fit
    ) -> "Geometry":
        """As `of`, for pixels `aspect` times as wide as high, onto `wanted` (width, height); None keeps the source."""
        check_pixels(path, width, height)
        width, height = square_pixels(path, width, height, aspect)
        if wanted is None or wanted == (width, height):
            return cls(width, height, width, height)
        if fit == "stretch":
            return cls(*wanted, *wanted)
        # The scale that covers both sides: wanted / source, the larger.
        if wanted[0] * height >= wanted[1] * width:
            scaled = cls(wanted[0], max(wanted[0] * height // width, wanted[1]), *wanted)
        else:
            scaled = cls(max(wanted[1] * width // height, wanted[0]), wanted[1], *wanted)
        check_pixels(path, scaled.width, scaled.height)
        return scaled

    @property
    def left(self) -> int:
        return (self.width - self.crop_width) // 2

    @property
    def top(self) -> int:
        return (self.height - self.crop_height) // 2


def square_pixels(path: Path, width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """The size on square pixels, never smaller: one side is stretched."""
    if aspect > 1:
        width = max(round(width * aspect), 1)
    elif aspect < 1:
        height = max(round(height / aspect), 1)
    check_pixels(path, width, height)
    return width, height


def check_size(size: int | None, fit: str) -> None:
    if size is not None and (not isinstance(size, int) or not 1 <= size <= 8192):
        raise ValueError(f"size must be None or 1 ... 8192 pixels, got {size!r}")
    if fit not in get_args(Fit):
        raise ValueError(f"fit must be one of {', '.join(get_args(Fit))}, got {fit!r}")
