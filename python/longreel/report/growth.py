"""A sweep over frames on the terminal and as JSON: totals first, then stages with their growth, then memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from longreel.models.record import OURS, REFERENCE
from longreel.report.stages import short

Line = dict[str, Any]
"""A run, as `longreel.report.lines.json_line` writes it."""
_MIB = 2**20


@dataclass(frozen=True)
class Growth:
    """Exponents p of time ~ frames^p by stage, and of the total; `memory` is the peak beyond the tokens kept, last run over
    first."""

    stages: dict[str, float]
    total: float
    memory: float

    @classmethod
    def of(cls, runs: Sequence[Line]) -> "Growth":
        """Fitted over all runs; the smallest weighs as much as the largest."""
        frames = [run["frames"] for run in runs]
        names = runs[-1]["stages_s"][OURS]
        stages = {name: exponent(frames, [run["stages_s"][OURS][name] for run in runs]) for name in names}
        total = exponent(frames, [run["total_s"][OURS] for run in runs])
        return cls(stages, total, beyond_tokens(runs[-1]) / beyond_tokens(runs[0]))


def exponent(frames: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of log seconds over log frames, by least squares; NaN where a time is 0."""
    if min(seconds) <= 0:
        return math.nan
    x, y = [math.log(n) for n in frames], [math.log(s) for s in seconds]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - middle_x) ** 2 for a in x)
    return sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / spread


def beyond_tokens(run: Line) -> int:
    """Peak memory of ours in bytes, without the tokens kept."""
    peak: int = run["peak_memory_bytes"][OURS] - run["tokens_bytes"]
    return peak


def show(runs: Sequence[Line], growth: Growth, console: Console) -> None:
    """Rows: the total, the stages, tokens and memory; a column for every number of frames, then the growth."""
    last = runs[-1]
    title = f"{last['system']}, preset {last['preset']}: {runs[0]['frames']:,} to {last['frames']:,} frames"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("frames", no_wrap=True)
    for run in runs:
        table.add_column(f"{run['frames']:,}", justify="right", no_wrap=True)
    table.add_column("growth", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_row("total, s", *(_seconds(run["total_s"][OURS]) for run in runs), _power(growth.total), style="bold")
    if "end_to_end_ratio" in last:
        table.add_row("  over the reference", *(f"{run['end_to_end_ratio']:.3f} x" for run in runs), style="green")
    table.add_section()
    for name, power in growth.stages.items():
        label = short(last["system"], name)
        times = [run["stages_s"][OURS][name] for run in runs]
        share = f"{times[-1] / last['total_s'][OURS]:.1%}"
        table.add_row(f"{label}, s", *map(_seconds, times), _power(power), share)
    table.add_section()
    table.add_row("CPU, s", *(_seconds(run["cpu_s"][OURS]) for run in runs), style="bold")
    for name, spent in last["stages_cpu_s"][OURS].items():
        times = [run["stages_cpu_s"][OURS].get(name, 0.0) for run in runs]
        share = f"{spent / last['cpu_s'][OURS]:.1%}"
        table.add_row(f"{short(last['system'], name)}, CPU s", *map(_seconds, times), "", share)
    table.add_section()
    for label, key in (("frames a second", "frames_per_s"), ("first token after, s", "first_token_s")):
        found = [run[key][OURS] for run in runs]
        table.add_row(label, *("–" if one is None else _seconds(one) for one in found))
    table.add_row("tokens kept", *(f"{run['tokens']:,}" for run in runs))
    table.add_row("  MiB", *(f"{run['tokens_bytes'] / _MIB:.1f}" for run in runs))
    for path in last["total_s"]:
        peaks = [run["peak_memory_bytes"][path] / _MIB for run in runs]
        table.add_row(f"peak memory, {path}, MiB", *(f"{peak:,.0f}" for peak in peaks))
    console.print(table)
    console.print(
        f"memory         {last['frames']:,} frames take {growth.memory - 1:+.1%} of the peak at {runs[0]['frames']:,},"
        " beyond the tokens kept"
    )
    console.print("growth         time ~ frames^p, fitted over all columns; share of the last column's total")


def json_growth(runs: Sequence[Line], growth: Growth) -> dict[str, Any]:
    """The fit as one line of JSON; a stage that took no time has null."""
    last = runs[-1]
    return {
        "command": "profile growth",
        "system": last["system"],
        "preset": last["preset"],
        "source": last["source"],
        "frames": [run["frames"] for run in runs],
        "total_exponent": growth.total,
        "stage_exponents": {name: None if math.isnan(p) else p for name, p in growth.stages.items()},
        "memory_beyond_tokens_ratio": growth.memory,
        "ratios": {
            path: [run["total_s"][path] for run in runs] for path in (OURS, REFERENCE) if path in last["total_s"]
        },
    }


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def _power(value: float) -> str:
    return "–" if math.isnan(value) else f"n^{value:.2f}"
