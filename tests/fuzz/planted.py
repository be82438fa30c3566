"""A target with a fault of every kind, each at an input of its own."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

# What the input does, and what must be said of it; of the last two nothing.
FAULTS = {
    "crash": "ended with -11", "loop": "ended with -9", "wait": "ended with -9", "memory": "takes more than 4 GiB",
    "traceback": "KeyError", "lines": "more than a line", "contradiction": "AssertionError", "refused": None, "taken": None,
}  # fmt: skip


def planted(folder: Path) -> Callable[[random.Random], None]:
    # The number of the first input of this process.
    numbers = iter(range(int(folder.name.rpartition("-")[2]), len(FAULTS)))

    def take(draw: random.Random) -> None:
        name = [*FAULTS][next(numbers)]
        if name == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        while name == "loop":
            pass
        if name == "wait":
            time.sleep(3600)
        if name == "memory":
            bytearray(5 << 30)
        if name == "traceback":
            raise KeyError(name)
        if name in ("lines", "refused"):
            raise ValueError("one\ntwo" if name == "lines" else "one")
        assert name != "contradiction"

    return take
