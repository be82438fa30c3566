"""A soak: short runs of every system in one process, one after another, and what the process holds after each round.

    python benchmarks/soak.py [--minutes 60] [--json FILE]

A round is, for each system: extract, run from the video, run from the features beside the reference, a memory saved, run and
asked where the system has one, and an input that is refused. Printed are resident memory, open descriptors and threads after
the first quarter and at the end. Exit code 1 where descriptors or threads grew, or memory by more than 16 MiB.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from typer.testing import CliRunner

from longreel.cli.main import app
from longreel.files.output import append_line
from longreel.models.registry import SYSTEMS

_MIB = 1 << 20
_MOST_GROWTH = 16 * _MIB


@dataclass(frozen=True)
class Held:
    """What this process holds: resident bytes, open descriptors, threads."""

    seconds: float
    resident: int
    descriptors: int
    threads: int


def held(began: float) -> Held:
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    resident = int(status["VmRSS"].split()[0]) * 1024
    return Held(time.monotonic() - began, resident, len(os.listdir("/proc/self/fd")), int(status["Threads"]))


def make_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(12):
            pixels = np.full((64, 96, 3), 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def call(*arguments: object, code: int = 0) -> None:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    if result.exit_code != code:
        sys.exit(f"longreel {' '.join(map(str, arguments))}: exit code {result.exit_code}, not {code}\n{result.output}")


def round_of(system: str, memory: bool, folder: Path) -> None:
    video, features, saved = folder / "video.mp4", folder / "features.safetensors", folder / "memory.safetensors"
    common = ["--system", system, "--preset", "tiny", "--frames", "uniform:8"]
    call("extract", video, *common, "--out", features)
    call("run", video, *common, "--answer-tokens", 2, *(["--save-memory", saved] if memory else []))
    call("run", features, "--system", system, "--preset", "tiny", "--compare", "--answer-tokens", 2)
    if memory:
        call("run", saved, "--system", system, "--preset", "tiny", "--answer-tokens", 2)
        call("ask", saved, "--question", "What?", "--answer-tokens", 2)
    features.write_bytes(features.read_bytes()[:-1])
    call("run", features, "--system", system, "--preset", "tiny", code=2)


def with_memory(folder: Path) -> dict[str, bool]:
    from longreel.models.registry import find

    return {name: bool(find(name).memory) for name in SYSTEMS}


def soak(seconds: float, turn: Callable[[], None], log: Path | None) -> list[Held]:
    began, found = time.monotonic(), list[Held]()
    while not found or time.monotonic() - began < seconds:
        turn()
        found.append(held(began))
        if log is not None:
            append_line(log, json.dumps(asdict(found[-1])))
    return found


def judged(found: list[Held]) -> bool:
    """Prints what grew after the first quarter; whether nothing did."""
    later = found[len(found) // 4 :]
    first, last = later[0], later[-1]
    rounds = len(later) - 1
    half = len(later) // 2
    growth = statistics.median(each.resident for each in later[half:]) - statistics.median(
        each.resident for each in later[: half or 1]
    )
    print(f"{len(found)} rounds of {', '.join(SYSTEMS)} in {last.seconds / 60:.0f} minutes")
    print(f"resident     {first.resident / _MIB:7.0f} MiB after a quarter, {last.resident / _MIB:.0f} MiB at the end")
    print(
        f"             {growth / _MIB:+7.1f} MiB from the median of the first half of these {rounds} rounds to the second's"
    )
    print(f"descriptors  {first.descriptors:7} -> {last.descriptors}")
    print(f"threads      {first.threads:7} -> {last.threads}")
    return last.descriptors <= first.descriptors and last.threads <= first.threads and growth <= _MOST_GROWTH


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--json", type=Path, help="a line for every round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_video(folder / "video.mp4")
        systems = with_memory(folder)

        def turn() -> None:
            for system, memory in systems.items():
                round_of(system, memory, folder)

        return int(not judged(soak(60 * options.minutes, turn, options.json)))


if __name__ == "__main__":
    sys.exit(main())
