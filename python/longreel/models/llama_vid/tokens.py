"""How many content tokens a frame gets: a number, or as many as a budget of tokens allows."""

from typing import Literal

TokensPerFrame = int | Literal["auto"]


def content_counts(side: int) -> dict[int, str | None]:
    """Content tokens that a grid of `side` x `side` patches can be pooled to -> `compress` that does it, ascending.

    One token is the mean, all of them no pooling; the released "grid:g" gives floor(side / (side // g)) squared.
    """
    counts: dict[int, str | None] = {1: "mean"}
    for g in range(2, side):
        counts.setdefault((side // (side // g)) ** 2, f"grid:{g}")
    counts[side * side] = None if side > 1 else "mean"
    return dict(sorted(counts.items()))


def choose_compress(wanted: TokensPerFrame, *, side: int, frames: int | None, budget: int) -> str | None:
    """`compress` for `wanted` content tokens a frame (the context token comes on top).

    Args:
        wanted: a count that `content_counts` lists; or "auto": the largest one for which `frames` * (1 + n) is at most
            `budget`, down to 1.
        side: patches on a side of the grid. frames: how many there will be, None where that is not known.
        budget: tokens that the language model has left for the video.

    Raises:
        ValueError: the count cannot be had, "auto" without a known number of frames, or not even 1 fits.
    """
    counts = content_counts(side)
    if wanted != "auto":
        if wanted not in counts:
            raise ValueError(
                f"tokens per frame {wanted}: a grid of {side} x {side} patches gives {_listed(counts)}, or auto"
            )
        return counts[wanted]
    if frames is None:
        raise ValueError("tokens per frame auto: this input does not say how many frames it has; give a number")
    fitting = [n for n in counts if frames * (1 + n) <= budget]
    if not fitting:
        raise ValueError(
            f"{frames} frames need {2 * frames} tokens at 1 content token each, {budget} are left for them"
        )
    return counts[max(fitting)]


def _listed(counts: dict[int, str | None]) -> str:
    *most, last = map(str, counts)
    return f"{', '.join(most)} or {last}" if most else last
