"""Time a frame over its size, for the ops on patches: `python benchmarks/time_over_size.py --png docs/time_over_size.png`.

Every number of patches from 16 to 40 and some up to 256, frames few and many, one thread and all of them: neighbours should cost
about the same a patch. The picture shows nanoseconds a patch; printed is the steepest step between sizes one apart.
"""

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import torch

from longreel import adaptive_pool, compress_frames, context_attention
from longreel.files.output import OutputFile
from longreel.measure.clock import HostClock
from longreel.measure.machine import describe

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WIDTH, QUERIES = 1408, 32
SIZES = (*range(16, 41), 48, 49, 63, 64, 65, 96, 100, 127, 128, 129, 144, 192, 193, 240, 255, 256)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROUNDS = 7

# op: call of (query, patches) for any number of patches, all in one row of the grid
OPS: dict[str, Callable[..., Any]] = {
    "compress_frames": lambda q, x: compress_frames(q, x, output_size=(1, 4), grid=(1, x.shape[1])),
    "context_attention": lambda q, x: context_attention(q, x),
    "adaptive_pool": lambda q, x: adaptive_pool(x, (1, 4), grid=(1, x.shape[1])),
}


def nanoseconds(op: str, dtype: torch.dtype, frames: int, clock: HostClock) -> list[float]:
    """A patch, for each size: the best of some rounds, in which sizes take turns."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(frames, max(SIZES), WIDTH, generator=generator).to(dtype)
    query = torch.randn(QUERIES, WIDTH, generator=generator).to(dtype)
    cut = {n: patches[:, :n].contiguous() for n in SIZES}
    best = dict.fromkeys(SIZES, float("inf"))
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for n in SIZES:
                calls = max(1, 512 // (n * frames))
                best[n] = min(best[n], clock.sample(lambda n=n: OPS[op](query, cut[n]), calls))
    return [1e9 * best[n] / (n * frames) for n in SIZES]


def steepest(times: list[float]) -> tuple[float, int]:
    """The largest ratio of the time a patch between sizes one apart, and the larger size."""
    pairs = [(n, m) for n, m in pairwise(range(len(SIZES))) if SIZES[m] == SIZES[n] + 1]
    return max((max(times[m] / times[n], times[n] / times[m]), SIZES[m]) for n, m in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--png", type=Path, required=True)
    given = parser.parse_args()
    clock, all_threads = HostClock(), torch.get_num_threads()
    _, grid = plt.subplots(2, len(OPS), figsize=(13, 7), sharex=True, layout="constrained")
    for column, op in enumerate(OPS):
        for row, (dtype_name, dtype) in enumerate(DTYPES.items()):
            axes = grid[row][column]
            for frames in (2, 64):
                for threads in sorted({1, all_threads}):
                    torch.set_num_threads(threads)
                    times = nanoseconds(op, dtype, frames, clock)
                    label = f"{frames} frames, {threads} thread{'s' * (threads > 1)}"
                    axes.plot(SIZES, times, marker=".", markersize=3, linewidth=1, label=label)
                    step, at = steepest(times)
                    print(f"{op} {dtype_name}, {label}: steepest step {step:.2f}x at {at} patches", flush=True)
            axes.set(title=f"{op}, {dtype_name}", xscale="log", ylim=(0, None))
            axes.set_xticks(
                [16, 24, 32, 48, 64, 96, 128, 192, 256], ["16", "24", "32", "48", "64", "96", "128", "192", "256"]
            )
            axes.minorticks_off()
            axes.grid(alpha=0.3)
    grid[0][0].set_ylabel("ns a patch")
    grid[1][0].set_ylabel("ns a patch")
    for axes in grid[1]:
        axes.set_xlabel("patches a frame")
    grid[0][0].legend(fontsize="small")
    machine = describe(torch.device("cpu"))
    plt.suptitle(f"width {WIDTH}, {QUERIES} queries; {machine['device']}, {machine['cpu_isa']}", fontsize="medium")
    with OutputFile(given.png) as out:
        plt.savefig(out.file, format="png", dpi=80)


if __name__ == "__main__":
    main()
