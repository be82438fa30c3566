"""Which frames of a video are wanted: the small language of `--frames`."""

import re
from dataclasses import dataclass
from fractions import Fraction

GRAMMAR = (
    "fps:RATE, uniform:COUNT, fps:RATE,max=COUNT, keys or keys:RATE"
    " (RATE in frames a second up to 1000, COUNT from 1 to 1000000)"
)
_RATE = r"\d+(?:\.\d+)?|\d+/\d+"
_PATTERN = re.compile(
    rf"(?:fps:(?P<rate>{_RATE})(?:,max=(?P<most>\d+))?|uniform:(?P<count>\d+)|(?P<keys>keys)(?::(?P<apart>{_RATE}))?)",
    re.ASCII,
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

    `keys` takes every key frame of the file, at its own time, and nothing else is decoded where the file says where they are;
    `keys:r` those that come at least 1/r seconds after the one taken before.
    """

    rate: Fraction | None = None
    count: int | None = None
    keys: bool = False

    def __post_init__(self) -> None:
        if self.keys and self.count is not None:
            raise ValueError(f"key frames are not counted, got {self.count}: {GRAMMAR}")
        if self.rate is None and self.count is None and not self.keys:
            raise ValueError(f"a frame spec needs a rate or a count: {GRAMMAR}")
        if self.rate is not None and not 0 < self.rate <= _MOST_RATE:
            raise ValueError(f"RATE out of range, got {self.rate}: {GRAMMAR}")
        if self.count is not None and not 1 <= self.count <= _MOST_FRAMES:
            raise ValueError(f"COUNT out of range, got {self.count}: {GRAMMAR}")

    @classmethod
    def parse(cls, text: "str | FrameSpec") -> "FrameSpec":
        """`fps:1`, `fps:0.5`, `fps:30000/1001`, `uniform:8`, `fps:1,max=128`, `keys`, `keys:1`; ValueError otherwise."""
        if isinstance(text, FrameSpec):
            return text
        match = _PATTERN.fullmatch(text.replace(" ", "")) if isinstance(text, str) else None
        if match is None or re.search(r"/0+$", match["rate"] or match["apart"] or ""):
            raise ValueError(f"cannot read frame spec {text!r}: use {GRAMMAR}")
        count = match["count"] or match["most"]
        rate = match["rate"] or match["apart"]
        return cls(Fraction(rate) if rate else None, int(count) if count else None, bool(match["keys"]))

    def step(self, duration: Fraction | None) -> Fraction:
        """Seconds between two sampling times of a video that lasts `duration` seconds; `fps:r` needs no duration."""
        if self.keys:
            raise ValueError(f"{self} has no sampling times: key frames stand where the file has them")
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
        if self.keys:
            return "keys" + (f":{self.rate}" if self.rate else "")
        if self.rate is None:
            return f"uniform:{self.count}"
        return f"fps:{self.rate}" + (f",max={self.count}" if self.count else "")
