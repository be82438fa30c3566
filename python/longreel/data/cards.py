"""Cards with a digit, for a video in which one is to be found again: each fills the picture with its digit on its colour."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Seconds that a card is shown; where one may begin.
SHOWN = 10
COLOURS = {
    "red": (200, 30, 30), "orange": (240, 140, 20), "yellow": (240, 230, 40), "green": (30, 140, 40),
    "cyan": (40, 210, 220), "blue": (30, 50, 200), "purple": (130, 40, 160), "pink": (250, 170, 200),
}  # fmt: skip
DIGITS = 10
# Digits across and down of the middle square, in a square of so many pixels.
_ACROSS, _SIDE = 12, 336


@dataclass(frozen=True)
class DigitCard:
    """second: when it appears, a multiple of SHOWN; it stays for SHOWN seconds."""

    colour: str
    digit: int
    second: int

    def __post_init__(self) -> None:
        if self.colour not in COLOURS or not 0 <= self.digit < DIGITS or self.second < 0 or self.second % SHOWN:
            raise ValueError(
                f"{self}: allowed are {', '.join(COLOURS)}, digits 0 to {DIGITS - 1}, and seconds that {SHOWN} divides"
            )

    @property
    def question(self) -> str:
        return f"Which digit was on the {self.colour} card?"

    def picture(self, width: int, height: int) -> NDArray[np.uint8]:
        """RGB [height, width, 3]: a square of digits in the middle, its colour beside it."""
        from PIL import Image, ImageDraw, ImageFont

        paper = COLOURS[self.colour]
        cell = _SIDE // _ACROSS
        ink = (0, 0, 0) if sum(paper) > 400 else (255, 255, 255)
        square = Image.new("RGB", (_SIDE, _SIDE), paper)
        draw, font = ImageDraw.Draw(square), ImageFont.load_default(size=cell - 2)
        for row in range(_ACROSS):
            for column in range(_ACROSS):
                middle = ((column + 0.5) * cell, (row + 0.5) * cell)
                draw.text(middle, str(self.digit), fill=ink, font=font, anchor="mm")
        side = min(width, height)
        picture = Image.new("RGB", (width, height), paper)
        picture.paste(square.resize((side, side)), ((width - side) // 2, (height - side) // 2))
        return np.asarray(picture)


def dealt(seed: int, seconds: int) -> list[DigitCard]:
    """One card of every colour, each with a digit and at a time by chance, in order of time.

    Raises:
        ValueError: the video is too short for as many.
    """
    places = seconds // SHOWN
    if places < len(COLOURS):
        raise ValueError(f"{len(COLOURS)} cards take {len(COLOURS) * SHOWN} seconds, the video has {seconds}")
    random = np.random.default_rng(seed)
    when = random.permutation(places)[: len(COLOURS)] * SHOWN
    every = [
        DigitCard(colour, int(random.integers(DIGITS)), int(second))
        for colour, second in zip(COLOURS, when, strict=True)
    ]
    return sorted(every, key=lambda card: card.second)


def check_apart(cards: Sequence[DigitCard], seconds: int) -> None:
    """ValueError where two cards are shown at once, or one beyond the video's end."""
    when = [card.second for card in cards]
    if len(set(when)) < len(when) or any(second + SHOWN > seconds for second in when):
        raise ValueError(f"cards at {sorted(when)} seconds of {seconds}: allowed is one at a time, up to the end")
