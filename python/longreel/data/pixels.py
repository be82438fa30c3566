"""From a Pillow image of any mode to RGB as it is meant to be shown: upright, opaque, of any depth."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from longreel.data.geometry import Fit, Geometry
from longreel.data.picture import on_white

_PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 0x0112, 258, 262
_WHITE_IS_ZERO = 0
_TRANSPOSED = (5, 6, 7, 8)


class Unshowable(ValueError):
    """The pixels have no agreed way to eight bits."""


def upright_rgb(image: Image.Image) -> tuple[Image.Image, Fraction]:
    """The picture, and the width of its pixels over their height."""
    aspect = _aspect(image)
    if image.getexif().get(_ORIENTATION) in _TRANSPOSED:
        aspect = 1 / aspect
    bits = _bits(image)
    # Pillow turns the values of these over itself where they have eight bits, not where they have more.
    negative = image.mode not in _PLAIN and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    return _rgb(ImageOps.exif_transpose(image), bits, negative), aspect


def fitted(path: Path, image: Image.Image, aspect: Fraction, size: int | None, fit: Fit) -> np.ndarray:
    """[h, w, 3] uint8 of an RGB picture whose pixels are `aspect` times as wide as high."""
    geometry = Geometry.onto(path, *image.size, aspect, None if size is None else (size, size), fit)
    scaled = image.resize((geometry.width, geometry.height), Image.Resampling.BICUBIC)
    box = (geometry.left, geometry.top, geometry.left + geometry.crop_width, geometry.top + geometry.crop_height)
    return np.asarray(scaled.crop(box))


def reason(error: Exception) -> str:
    """One line of what Pillow's readers raise, which is of many kinds on damaged bytes."""
    return " ".join(str(error).split()) or type(error).__name__


def _rgb(image: Image.Image, bits: int, negative: bool) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # [h, w]
        grey = _eight_bits(image, bits)
        return Image.fromarray(255 - grey if negative else grey).convert("RGB")
    if image.has_transparency_data:
        return Image.fromarray(on_white(np.asarray(image.convert("RGBA"))))
    if image.mode not in _PLAIN:
        raise Unshowable(f"pixels of mode {image.mode} cannot be shown")
    return image.convert("RGB")


def _eight_bits(image: Image.Image, bits: int) -> np.ndarray:
    """[h, w] uint8 from 16-bit integers by their upper byte, from floats in 0 ... 1 by their share."""
    # [h, w]
    values = np.asarray(image)
    if image.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise Unshowable(f"float pixels run from {values.min()} to {values.max()}; they are shown from 0 to 1")
        grey = np.rint(values * 255)
    else:
        if bits > 16 or values.min() < 0:
            raise Unshowable(f"integer pixels of {bits} bits run from {values.min()} to {values.max()}; "
                             "they are shown up to 16 bits unsigned")  # fmt: skip
        grey = values.astype(np.uint16) >> (bits - 8)
    shown = grey.astype(np.uint8)
    hidden = image.info.get("transparency")
    return np.where(values == hidden, np.uint8(255), shown) if isinstance(hidden, int) else shown


def _bits(image: Image.Image) -> int:
    """How many bits the largest value has. PGM and PNG are scaled to 16 by Pillow."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return 16
    return max(int(tags.get(_BITS_PER_SAMPLE, (16,))[0]), 8)


def _aspect(image: Image.Image) -> Fraction:
    """Width of a pixel over its height, from the densities in the header; 1 where these are absent or absurd."""
    across, down = image.info.get("aspect") or image.info.get("dpi") or (1, 1)
    if image.info.get("jfif_unit") == 0:
        across, down = image.info.get("jfif_density", (1, 1))
    if not (across and down):
        return Fraction(1)
    # Dots that are denser across are narrower.
    ratio = float(down) / float(across)
    # 0 / 0 in a TIFF is no number.
    return Fraction(ratio).limit_denominator(1000) if 1 / 4 <= ratio <= 4 else Fraction(1)
