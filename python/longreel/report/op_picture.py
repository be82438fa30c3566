"""Pictures of op benchmarks: how many times faster ours is than each peer, with quartiles; where the hour of a run goes."""

from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from longreel.files.foreign import plain
from longreel.report.figure_file import svg
from longreel.report.result_lines import DTYPES
from longreel.report.result_pairs import Pair, noisy
from longreel.report.stages import colour, short

_STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "longreel"}
_OURS, _NOISY, _SLOWER = "#2a9d4e", "#d8a748", "#c44e52"


def ratios(pairs: Sequence[Pair], label_op: bool) -> bytes:
    """SVG: a bar for each pair, from 1 on, on a logarithmic axis; those that are noisy in another colour. `label_op`: bars of
    several ops, named by them."""
    shown = [pair for pair in pairs if pair.ratio]
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(11, 0.9 + 0.3 * len(shown)), layout="constrained")
        for place, pair in enumerate(shown):
            assert pair.ratio is not None
            low, middle, high = (pair.ratio[key] for key in ("low", "median", "high"))
            ink = _NOISY if noisy(pair) else _OURS if middle >= 1 else _SLOWER
            axes.barh(place, middle - 1, left=1, color=ink, height=0.7)
            axes.plot([low, high], [place, place], color="black", linewidth=1)
            axes.annotate(
                f"{middle:.2f}x{' noisy' * noisy(pair)}",
                (max(middle, high, 1), place),
                (4, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(shown)), [_label(pair, label_op) for pair in shown], parse_math=False)
        axes.invert_yaxis()
        axes.set_xscale("log")
        largest = max(pair.ratio["high"] for pair in shown if pair.ratio)
        axes.set_xlim(min(0.9, *(pair.ratio["low"] * 0.95 for pair in shown if pair.ratio)), largest * 1.5)
        marks = [
            mark for mark in (0.5, 1, 2, 5, 10, 20, 50, 100, 200) if axes.get_xlim()[0] <= mark <= axes.get_xlim()[1]
        ]
        axes.set_xticks(marks, [f"{mark:g}x" for mark in marks])
        axes.minorticks_off()
        axes.axvline(1, color="#444444", linewidth=1)
        axes.set_xlabel("the peer's time over ours (median and quartiles of the rounds)")
        axes.grid(axis="x", alpha=0.3)
        return svg(figure)


def stage_shares(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> bytes:
    """SVG: a bar a run, seconds by stage. runs: {"system", "total", "stages": seconds by name}."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(11, 1.1 + 0.42 * len(runs)), layout="constrained")
        for place, run in enumerate(runs):
            start = 0.0
            for stage, spent in run["stages"].items():
                share = spent / run["total"]
                axes.barh(place, share, left=start, color=colour(run["system"], stage), height=0.7, edgecolor="white")
                if share > 0.07:
                    axes.text(
                        start + share / 2, place, f"{short(run['system'], stage)} {share:.0%}", ha="center", va="center",
                        color="white", fontsize=8,
                    )  # fmt: skip
                start += share
        axes.set_yticks(range(len(runs)), list(map(plain, names)), parse_math=False)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.set_xlabel("share of the total")
        return svg(figure)


def _label(pair: Pair, label_op: bool) -> str:
    passed = pair.ours["pass"].replace("forward + backward", "+ backward")
    said = f"{passed} {DTYPES[pair.ours['dtype']]} over {pair.peer['variant']}"
    return plain(f"{pair.ours['op']} {said}" if label_op else said)
