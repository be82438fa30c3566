"""A picture of a sweep: time by stage with its growth, shares of the total, memory, all over the number of frames."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from longreel.files.output import OutputFile
from longreel.models.record import OURS, REFERENCE
from longreel.report.growth import Growth, Line, beyond_tokens
from longreel.report.stages import colour, short

_MIB = 2**20


def draw(runs: Sequence[Line], growth: Growth, path: Path) -> None:
    """Writes a PNG (or what the suffix says)."""
    last = runs[-1]
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (times, shares, memory) = plt.subplots(
            1, 3, figsize=(14, 5), dpi=130, layout="constrained", width_ratios=[1.35, 1, 1]
        )
        _times(times, runs, growth)
        _shares(shares, runs)
        _memory(memory, runs, growth)
        title = f"{last['system']}, preset {last['preset']}: {runs[0]['frames']:,} to {last['frames']:,} frames"
        if "end_to_end_ratio" in last:
            title += f", {last['end_to_end_ratio']:.3f} x the reference end to end"
        figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
        try:
            with OutputFile(path) as out:
                figure.savefig(out.file, format=path.suffix.removeprefix("."))
        finally:
            plt.close(figure)


def _times(axes: Axes, runs: Sequence[Line], growth: Growth) -> None:
    """Log-log: a slope is an exponent. Every line is named at its end, above what lies below it."""
    frames = [run["frames"] for run in runs]
    system = runs[-1]["system"]
    lines = {"total": ([run["total_s"][OURS] for run in runs], growth.total, "black")}
    for name, power in growth.stages.items():
        lines[name] = ([run["stages_s"][OURS][name] for run in runs], power, colour(system, name))
    shown = {name: line for name, line in lines.items() if min(line[0]) > 0}
    at, gap = math.inf, 1.35
    for name, (seconds, power, ink) in sorted(shown.items(), key=lambda item: -item[1][0][-1]):
        axes.plot(frames, seconds, "o-", color=ink, linewidth=2.4 if name == "total" else 1.6, markersize=4)
        at = min(seconds[-1], at / gap)
        label = name if name == "total" else short(system, name)
        axes.annotate(
            f"{label}  n^{power:.2f}", (frames[-1], seconds[-1]), (frames[-1] * 1.12, at), color=ink, va="center",
            fontsize=9, fontweight="bold" if name == "total" else "normal", annotation_clip=False,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(frames[0] / 1.15, frames[-1] * (frames[-1] / frames[0]) ** 0.75)
    _mark(axes, frames)
    axes.set_xlabel("frames n")
    axes.set_ylabel("seconds")
    axes.grid(alpha=0.3)


def _shares(axes: Axes, runs: Sequence[Line]) -> None:
    floor = [0.0] * len(runs)
    places, system = range(len(runs)), runs[-1]["system"]
    for name in runs[-1]["stages_s"][OURS]:
        heights = [run["stages_s"][OURS][name] / run["total_s"][OURS] for run in runs]
        axes.bar(places, heights, 0.75, bottom=floor, color=colour(system, name), label=short(system, name))
        for place, height in zip(places, heights, strict=True):
            if height > 0.06:
                axes.text(place, floor[place] + height / 2, f"{height:.0%}", ha="center", va="center", color="white")
        floor = [below + height for below, height in zip(floor, heights, strict=True)]
    axes.set_xticks(places, [f"{run['frames']:,}" for run in runs])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    axes.set_xlabel("frames")
    axes.set_ylabel("share of the total")
    axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=8)


def _memory(axes: Axes, runs: Sequence[Line], growth: Growth) -> None:
    frames = [run["frames"] for run in runs]
    if REFERENCE in runs[-1]["peak_memory_bytes"]:
        peaks = [run["peak_memory_bytes"][REFERENCE] / _MIB for run in runs]
        axes.plot(frames, peaks, "o--", color="#888888", label="reference")
    peaks = [run["peak_memory_bytes"][OURS] / _MIB for run in runs]
    axes.plot(frames, peaks, "o-", color="#2a9d4e", linewidth=2, label="longreel")
    axes.plot(frames, [beyond_tokens(run) / _MIB for run in runs], ":", color="#2a9d4e", label="beyond the tokens kept")
    axes.set_ylim(0, 1.2 * max(max(run["peak_memory_bytes"].values()) for run in runs) / _MIB)
    axes.set_xlim(0)
    _mark(axes, [0, *frames[-3:]])
    axes.set_xlabel("frames")
    axes.set_ylabel("peak memory, MiB")
    axes.text(
        0.03, 0.3, f"{growth.memory - 1:+.1%} from {frames[0]:,} to {frames[-1]:,} frames", transform=axes.transAxes
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right", fontsize=9)


def _mark(axes: Axes, frames: Sequence[int]) -> None:
    axes.set_xticks(frames, [f"{n:,}" for n in frames])
    axes.xaxis.set_minor_locator(NullLocator())
