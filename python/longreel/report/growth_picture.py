"""A picture of a sweep: time by stage with its growth, shares of the total, memory, all over the number of frames."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from longreel.models.record import OURS, REFERENCE
from longreel.report.figure_file import save_figure, titled
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
        titled(figure, title)
        save_figure(figure, path)


def _times(axes: Axes, runs: Sequence[Line], growth: Growth) -> None:
    """Log-log, CPU seconds: points as measured, lines as fitted. Every line is named at its end, above what lies below it."""
    frames = [run["frames"] for run in runs]
    system = runs[-1]["system"]
    wall = [run["total_s"][OURS] for run in runs]
    axes.plot(frames, wall, "--", color="#9aa5b1", linewidth=1.4, label="total by the wall clock")
    lines = {"total": ([run["cpu_s"][OURS] for run in runs], growth.cpu_total, growth.top_total, "black")}
    for name, fit in growth.cpu.items():
        seconds = [run["stages_cpu_s"][OURS].get(name, 0.0) for run in runs]
        lines[name] = (seconds, fit, growth.top[name], colour(system, name))
    # What takes half a percent would stretch the axis and say nothing.
    shown = {
        name: line for name, line in lines.items() if min(line[0]) > 0 and line[0][-1] > lines["total"][0][-1] / 200
    }
    fine = np.geomspace(frames[0], frames[-1], 100)
    lowest = min(min(line[0]) for line in shown.values())
    span = lines["total"][0][-1] / lowest
    # The height of a line of text on this axis.
    at, gap = math.inf, span**0.055
    for name, (seconds, fit, power, ink) in sorted(shown.items(), key=lambda item: -item[1][0][-1]):
        fitted = np.array([fit.at(x) for x in fine])
        wide = 2.4 if name == "total" else 1.6
        axes.plot(fine[fitted > lowest / 2], fitted[fitted > lowest / 2], "-", color=ink, linewidth=wide, alpha=0.75)
        axes.plot(frames, seconds, "o", color=ink, markersize=5)
        at = min(seconds[-1], at / gap)
        label = "total" if name == "total" else short(system, name)
        slope = "" if math.isnan(power) else f"  F^{power:.2f}"
        axes.annotate(
            f"{label}{slope}", (frames[-1], seconds[-1]), (frames[-1] * 1.12, at), color=ink, va="center",
            fontsize=9, fontweight="bold" if name == "total" else "normal", annotation_clip=False,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(frames[0] / 1.15, frames[-1] * (frames[-1] / frames[0]) ** 0.75)
    axes.set_ylim(lowest / 1.6, 1.8 * max(*wall, *lines["total"][0]))
    _mark(axes, frames)
    axes.set_xlabel("frames F")
    axes.set_ylabel("CPU seconds")
    axes.set_title("a + bF + cF², exponents over the top octave", fontsize=10, loc="left")
    axes.legend(frameon=False, loc="upper left", fontsize=9)
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
    axes.plot(
        frames, [beyond_tokens(run) / _MIB for run in runs], ":", color="#2a9d4e", label="beyond the tokens cached"
    )
    axes.set_ylim(0, 1.2 * max(max(run["peak_memory_bytes"].values()) for run in runs) / _MIB)
    axes.set_xlim(0)
    _mark(axes, [0, *frames[-3:]])
    axes.set_xlabel("frames")
    axes.set_ylabel("peak memory, MiB")
    fine = [0, frames[-1]]
    axes.plot(fine, [growth.beyond.at(x) / _MIB for x in fine], "-", color="#2a9d4e", linewidth=1, alpha=0.4)
    first, each = growth.beyond.of(0)[0] / _MIB, growth.beyond.of(1)[0] / 2**10
    said = f"beyond the tokens cached: {first:,.0f} MiB + F x {each:.1f} KiB"
    axes.text(0.03, 0.3, said, transform=axes.transAxes, fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right", fontsize=9)


def _mark(axes: Axes, frames: Sequence[int]) -> None:
    axes.set_xticks(frames, [f"{n:,}" for n in frames])
    axes.xaxis.set_minor_locator(NullLocator())
