"""The ratio of every Video-XL chunk, drawn as the published code draws it."""

from collections.abc import Sequence

import numpy as np

from longreel.layout.numbers import check_segments, count

DRAWS = ("step-random", "instance-random", "sequence", "adapt-K")


class RatioDraw:
    """One ratio per chunk. A generator handed over goes on where it stands, as Video-XL's does from video to video.

    Several ratios are first reduced to those that divide the chunk at hand; a single one is taken as it is, and what it does
    not divide is carried into the next chunk.

    Args:
        ratios: raw visual tokens per VST, each at least 1.
        draw: "step-random" draws for every chunk; "instance-random" draws once; "sequence" goes round the ratios that fit the
            first chunk; "adapt-K" takes for the whole sequence the ratio with the smallest sufficient capacity
            ``(max_positions - chunk) * ratio + chunk`` for its length and K more tokens, else the largest ratio.
        seed: or a generator.
        length: tokens of the whole sequence (prefix, video, text), which "adapt-K" needs.
        max_positions: of the language model, for "adapt-K".
    """

    def __init__(
        self,
        ratios: Sequence[int],
        draw: str = "step-random",
        *,
        seed: int | np.random.Generator = 42,
        length: int | None = None,
        max_positions: int = 32768,
    ) -> None:
        self.ratios = [count("a ratio", ratio) for ratio in ratios]
        if not self.ratios or min(self.ratios) < 1:
            raise ValueError(f"ratios={tuple(ratios)}: at least one, each at least 1")
        self.future: int | None = None  # K of "adapt-K"
        if draw.startswith("adapt-"):
            if not draw.removeprefix("adapt-").isdecimal():
                raise ValueError(f"draw={draw!r}: K of 'adapt-K' is a number of tokens, as in 'adapt-1024'")
            self.future = int(draw.removeprefix("adapt-"))
            if length is None:
                raise ValueError(f"draw={draw!r} needs length=, the tokens of the whole sequence")
        elif draw not in DRAWS:
            raise ValueError(f"draw={draw!r} is not one of {', '.join(map(repr, DRAWS))}")
        self.draw, self.length = draw, count("length", length or 0)
        self.max_positions = count("max_positions", max_positions)
        self.generator = np.random.default_rng(seed)
        self._fixed: int | None = None
        # Of "sequence": the ratios that are gone round, and how many were taken.
        self._round: list[int] = []
        self._taken = 0

    def next(self, chunk: int) -> int:
        """The ratio of the next chunk, of `chunk` visual tokens.

        Raises:
            ValueError: there are several ratios and none divides `chunk`.
        """
        if len(self.ratios) == 1:
            return self.ratios[0]
        fitting = [ratio for ratio in self.ratios if chunk % ratio == 0 and ratio <= chunk]
        if not fitting:
            raise ValueError(f"none of the ratios {tuple(self.ratios)} divides a chunk of {chunk} tokens")
        if self.draw == "step-random":
            return int(self.generator.choice(fitting))
        if self.draw == "sequence":
            self._round = self._round or fitting
            self._taken += 1
            return self._round[(self._taken - 1) % len(self._round)]
        if self._fixed is None:
            once = self.future is None
            self._fixed = int(self.generator.choice(fitting)) if once else self._sufficient(fitting, chunk)
        return self._fixed

    def _sufficient(self, fitting: list[int], chunk: int) -> int:
        capacity = {ratio: (self.max_positions - chunk) * ratio + chunk for ratio in fitting}
        enough = [ratio for ratio in fitting if capacity[ratio] >= self.length + (self.future or 0)]
        return min(enough, key=capacity.__getitem__) if enough else max(fitting)


def chunk_lengths(visual: int, chunk: int) -> list[int]:
    """Visual tokens of every chunk: whole ones, then what is left."""
    visual, chunk = count("visual", visual), count("chunk", chunk, 1)
    check_segments(-(-visual // chunk))
    return [min(chunk, visual - at) for at in range(0, visual, chunk)]
