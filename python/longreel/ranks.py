"""One process of several: which one, of how many, by the environment that torchrun and batch scripts set."""

import os
from dataclasses import dataclass

MOST = 1 << 20


@dataclass(frozen=True)
class Rank:
    """index: from 0. count: of all processes. local: among those of this machine, None where nobody says.

    restarts: whether all are ended and started again when one fails, as torchrun does.
    """

    index: int = 0
    count: int = 1
    local: int | None = None
    restarts: bool = False

    def __str__(self) -> str:
        return f"process {self.index + 1} of {self.count}"


def of_environment() -> Rank:
    """By RANK, WORLD_SIZE and LOCAL_RANK; alone without them.

    Raises:
        ValueError: only one of the first two is set, or they are no numbers that fit each other.
    """
    index, count, local = (_number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if index is None and count is None:
        return Rank()
    if index is None or count is None:
        missing, there = ("RANK", "WORLD_SIZE") if index is None else ("WORLD_SIZE", "RANK")
        raise ValueError(f"{there} is set in the environment and {missing} is not: set both, or neither")
    if not 0 <= index < count <= MOST:
        raise ValueError(f"RANK={index}, WORLD_SIZE={count}: ranks are 0 to WORLD_SIZE - 1, of at most {MOST:,}")
    return Rank(index, count, local, "TORCHELASTIC_RUN_ID" in os.environ)


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f"{name}={text!r} in the environment: must be a number from 0")
    return int(text)
