"""A picture of a run: where the time goes, ours and the reference path's, and memory over frames."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from longreel.models.record import OURS, REFERENCE, RunRecord
from longreel.report.figure_file import save_figure, titled
from longreel.report.run_table import frames_of, ratio
from longreel.report.stages import colour, short, stage

_PATH_COLOURS = {OURS: "#2a9d4e", REFERENCE: "#888888"}


def draw(record: RunRecord, path: Path) -> None:
    """Writes a PNG (or what the suffix says)."""
    compared = REFERENCE in record.ids
    paths = [OURS, REFERENCE] if compared else [OURS]
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = plt.figure(figsize=(11, 6.4), dpi=130, layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=[1.15, 1.5], width_ratios=[1, 1.25])
        _totals(figure.add_subplot(grid[0, :]), record, paths)
        _stages(figure.add_subplot(grid[1, 0]), record, paths)
        _memory(figure.add_subplot(grid[1, 1]), record, paths)
        title = f"{record.system}, preset {record.preset}: {frames_of(record)} in {record.total():.1f} s"
        if compared:
            title += f", {ratio(record.total(REFERENCE), record.total())} end to end"
        titled(figure, title)
        save_figure(figure, path)


def _totals(axes: Axes, record: RunRecord, paths: list[str]) -> None:
    """One bar a path, cut into stages."""
    longest = max(record.total(path) for path in paths)
    for row, path in enumerate(paths):
        left = 0.0
        for name in record.seconds:
            seconds, label = record.stage(name, path), stage(record.system, name).label if row == 0 else None
            axes.barh(row, seconds, 0.62, left=left, color=colour(record.system, name), label=label)
            if seconds > 0.05 * longest:
                share = seconds / record.total(path)
                said = f"{seconds:.1f} s\n{share:.0%}"
                axes.text(left + seconds / 2, row, said, ha="center", va="center", color="white", fontsize=9)
            left += seconds
        axes.text(left, row, f"  {left:.1f} s", va="center", fontweight="bold")
    axes.set_yticks(range(len(paths)), paths)
    axes.set_ylim(len(paths) - 0.5, -0.5)
    axes.set_xlim(0, 1.1 * longest)
    axes.set_xlabel("seconds")
    axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False, fontsize=9)


def _stages(axes: Axes, record: RunRecord, paths: list[str]) -> None:
    """Milliseconds a frame, every stage on its own line, shared ones once."""
    names, height = list(record.seconds), 0.8 / len(paths)
    scale = 1e3 / max(record.frames, 1)
    most = max(scale * record.stage(name, path) for name in names for path in paths)
    for row, name in enumerate(names):
        differs = REFERENCE in record.seconds[name]
        for index, path in enumerate(paths if differs else [OURS]):
            value = scale * record.stage(name, path)
            place = row + (index - (len(paths) - 1) / 2) * height if differs else row
            axes.barh(place, value, height, color=_PATH_COLOURS[path] if differs else colour(record.system, name))
            said = f" {value:.2f}"
            if differs and path == OURS:
                said += f"  ({record.stage(name, REFERENCE) / record.stage(name, OURS):.1f}x faster)"
            weight = "bold" if differs and path == OURS else "normal"
            axes.text(value, place, said, va="center", fontsize=9, fontweight=weight)
    axes.set_yticks(range(len(names)), [short(record.system, name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1.35 * most)
    axes.set_xlabel("ms a frame" + (" (green: longreel, grey: reference)" if len(paths) > 1 else ""))


def _memory(axes: Axes, record: RunRecord, paths: list[str]) -> None:
    """Peak of each chunk; the last point is the language model's."""
    *chunks, last = record.memory
    for path in reversed(paths):
        frames, peaks = [done for done, _ in chunks], [found[path] / 2**20 for _, found in chunks]
        look: dict[str, Any] = {
            "color": _PATH_COLOURS[path],
            "linestyle": "-" if path == OURS else "--",
            "linewidth": 1.8,
        }
        axes.plot(frames, peaks, label=path, marker="." if len(chunks) < 5 else None, **look)
        axes.plot(last[0], last[1][path] / 2**20, "o", color=_PATH_COLOURS[path])
    said = f"tokens cached at the end: {record.tokens_bytes / 2**20:.1f} MiB"
    axes.text(0.02, 0.04, said, transform=axes.transAxes)
    axes.set_ylim(0, 1.15 * max(record.peak(path) for path in paths) / 2**20)
    axes.set_xlim(0)
    axes.set_xlabel("frames done (dot: the language model)")
    axes.set_ylabel("resident memory, MiB")
    axes.grid(alpha=0.3)
    if len(paths) > 1:
        axes.legend(frameon=False, loc="lower right")
