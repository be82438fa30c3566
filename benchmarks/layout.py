"""Time and memory of describing and planning a VoCo video, over frames: `python benchmarks/layout.py`.

A video of F frames is F x (576 + 1) + 64 rows. Bars: 3600 frames (2.08 million rows) under 50 ms and 100 MiB, time linear in F.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from longreel import PlannedLayout, VideoLayout
from longreel.layout.planned import TILES
from longreel.measure.memory import peak_memory

FRAMES = (450, 900, 1800, 3600)
TENSORS = ("start", "global_index", "bounds", "tiles", "order", "kv_blocks", "query_ranges", "kv_order")


def layout(frames: int, mode: str) -> VideoLayout:
    return VideoLayout.voco(frames=frames, vision=576, voco=1, text=64, mode=mode)  # type: ignore[arg-type]


def median(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def planned(frames: int, mode: str) -> list[torch.Tensor]:
    """The tensors of a plan, from nothing."""
    made: PlannedLayout = layout(frames, mode).to("cpu")
    return [getattr(made, name) for name in TENSORS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    for mode in ("independent", "causal"):
        print(f"mode {mode}, {repeats} repeats, medians")
        print(f"{'frames':>8} {'rows':>10} {'layout':>10} {'+ plan':>10} {'+ bounds':>10} {'plan':>10} {'peak':>10}")
        points = []
        for frames in FRAMES:
            make = partial(layout, frames, mode)
            plan = partial(planned, frames, mode)
            described, whole = median(make, repeats), median(plan, repeats)
            tiles = median(lambda make=make: make().plan(TILES["cpu"], bounds=False), repeats)  # type: ignore[misc]
            size = sum(tensor.nbytes for tensor in plan())
            extra = peak_memory(plan, torch.device("cpu")).extra
            points.append((math.log(frames), math.log(whole)))
            times = " ".join(f"{1e3 * seconds:>7.2f} ms" for seconds in (described, tiles, whole))
            peak = "-" if extra is None else f"{(size + extra) / 2**20:.1f}"
            print(f"{frames:>8} {make().length:>10} {times} {size / 2**20:>6.1f} MiB {peak:>6} MiB")
        print(f"time grows as frames to the power {slope(points):.2f}")


def slope(points: list[tuple[float, float]]) -> float:
    """Least squares."""
    x, y = (statistics.fmean(column) for column in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


if __name__ == "__main__":
    main()
