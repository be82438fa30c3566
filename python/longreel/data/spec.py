"""Which frames of a video are wanted: the small language of `--frames`."""

import re
from dataclasses import dataclass
from fractions import Fraction

GRAMMAR = "fps:RATE, uniform:COUNT or fps:RATE,max=COUNT (RATE in frames a second up to 1000, COUNT from 1 to 1000000)"
_PATTERN = re.compile(
    r"(?:fps:(?P<rate>\d+(?:\.\d+)?|\d+/\d+)(?:,max=(?P<most>\d+))?|uniform:(?P<count>\d+))", re.ASCII
)
_MOST_RATE = 1000
_MOST_FRAMES = 1_000_000


@dataclass(frozen=True, slots=True)
class FrameSpec:
    """Sampling times on a video's own clock, which starts at its first frame and runs for its duration D.

    `fps:r` samples at 0, 1/r, 2/r, ... below D; `uniform:n` at i * D / n for i < n; `fps:r,max=n` is `fps:r` where
    that gives at most n frames and `uniform:n` otherwise. The frame of a sampling time is the one on screen then: the
    last whose timestamp is not later. So the count depends on the duration alone, a frame that stays on screen for
    long (variable frame rate) may be taken several times, and at a constant rate frame i of `uniform:n` is frame
    floor(i * frames / n) of the video.
    """

    rate: Fraction | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.rate is None and self.count is None:
            raise ValueError(f"a frame spec needs a rate or a count: {GRAMMAR}")
        if self.rate is not None and not 0 < self.rate <= _MOST_RATE:
            raise ValueError(f"RATE out of range, got {self.rate}: {GRAMMAR}")
        if self.count is not None and not 1 <= self.count <= _MOST_FRAMES:
            raise ValueError(f"COUNT out of range, got {self.count}: {GRAMMAR}")

    @classmethod
    def parse(cls, text: "str | FrameSpec") -> "FrameSpec":
        """`fps:1`, `fps:0.5`, `fps:30000/1001`, `uniform:8`, `fps:1,max=128`; ValueError otherwise."""
        if isinstance(text, FrameSpec):
            return text
        match = _PATTERN.fullmatch(text.replace(" ", "")) if isinstance(text, str) else None
        if match is None or re.search(r"/0+$", match["rate"] or ""):
            raise ValueError(f"cannot read frame spec {text!r}: use {GRAMMAR}")
        count = match["count"] or match["most"]
        return cls(Fraction(match["rate"]) if match["rate"] else None, int(count) if count else None)

    def step(self, duration: Fraction | None) -> Fraction:
        """Seconds between two sampling times of a video that lasts `duration` seconds; `fps:r` needs no duration."""
        if self.rate is not None and (
            self.count is None or (duration is not None and duration * self.rate <= self.count)
        ):
            return 1 / self.rate
        if duration is None or duration <= 0 or self.count is None:
            raise ValueError(f"{self} needs the duration of the video, got {duration}")
        return duration / self.count

    def frames(self, duration: Fraction) -> int:
        """How many frames a video of `duration` > 0 seconds gives."""
        return -(-duration // self.step(duration))

    def __str__(self) -> str:
        if self.rate is None:
            return f"uniform:{self.count}"
        return f"fps:{self.rate}" + (f",max={self.count}" if self.count else "")
