"""From decoded frames to samples: which picture is on screen at which sampling time."""

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Interpolation

from longreel.data.geometry import Geometry

# Without the last two, swscale darkens some sizes by one or two levels.
_SCALING = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)
LONGEST_STILL = 3600

Sample = tuple[np.ndarray, float]


class Shown:
    """The frame on screen; converted at most once, and only if a sampling time falls on it."""

    def __init__(self, frame: av.VideoFrame, start: Fraction, geometry: Geometry) -> None:
        self._frame, self._start, self._geometry = frame, start, geometry
        self._picture: np.ndarray | None = None

    def until(self, step: Fraction, taken: int, end: Fraction, most: int | None) -> Iterator[Sample]:
        """One sample for each sampling time `taken * step`, `(taken + 1) * step`, ... below `end`, at most `most`."""
        while taken * step < end and taken != most:
            if self._picture is None:
                self._picture = _convert(self._frame, self._geometry)
            yield self._picture, float(self._start)
            taken += 1


def _convert(frame: av.VideoFrame, geometry: Geometry) -> np.ndarray:
    scaled = frame.reformat(geometry.width, geometry.height, "rgb24", interpolation=_SCALING).to_ndarray()
    top, left = geometry.top, geometry.left
    # [h, w, 3]
    picture = scaled[top : top + geometry.crop_height, left : left + geometry.crop_width]
    return np.rot90(picture, round(frame.rotation / 90)) if frame.rotation else picture
