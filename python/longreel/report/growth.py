"""A sweep over frames on the terminal and as JSON: totals first, then stages with their growth, then memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console

from longreel.bench.figure_table import FigureTable
from longreel.measure.fit import Fit, polynomial, top_exponent
from longreel.models.record import OURS, REFERENCE
from longreel.report.stages import short

Line = dict[str, Any]
"""A run, as `longreel.report.lines.json_line` writes it."""
_MIB = 2**20


@dataclass(frozen=True)
class Growth:
    """How a sweep grows with its frames.

    ::

        stages, total: exponents p of time ~ frames^p over all runs, the smallest weighing as much as the largest.
        memory: the peak beyond the tokens cached, last run over first.
        cpu: CPU seconds t = a + bF + cF^2, by stage; cpu_total: of all stages.
        top, top_total: exponents of t - a over the top octave, in CPU seconds.
        peak, beyond: memory = m0 + m1 F, of the peak and of the peak beyond the tokens cached.
    """

    stages: dict[str, float]
    total: float
    memory: float
    cpu: dict[str, Fit]
    cpu_total: Fit
    top: dict[str, float]
    top_total: float
    peak: Fit
    beyond: Fit

    @classmethod
    def of(cls, runs: Sequence[Line]) -> "Growth":
        frames = [run["frames"] for run in runs]
        names = runs[-1]["stages_s"][OURS]
        stages = {name: exponent(frames, [run["stages_s"][OURS].get(name, 0.0) for run in runs]) for name in names}
        total = exponent(frames, [run["total_s"][OURS] for run in runs])
        spent = {
            name: [run["stages_cpu_s"][OURS].get(name, 0.0) for run in runs] for name in runs[-1]["stages_cpu_s"][OURS]
        }
        cpu = {name: polynomial(frames, seconds, 2) for name, seconds in spent.items()}
        whole = [run["cpu_s"][OURS] for run in runs]
        cpu_total = polynomial(frames, whole, 2)
        peaks = [run["peak_memory_bytes"][OURS] for run in runs]
        return cls(
            stages,
            total,
            beyond_tokens(runs[-1]) / beyond_tokens(runs[0]),
            cpu,
            cpu_total,
            {name: top_exponent(frames, seconds, cpu[name].at(0)) for name, seconds in spent.items()},
            top_exponent(frames, whole, cpu_total.at(0)),
            polynomial(frames, peaks, 1, relative=False),
            polynomial(frames, [beyond_tokens(run) for run in runs], 1, relative=False),
        )


def exponent(frames: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of log seconds over log frames, by least squares; NaN where a time is 0."""
    if min(seconds) <= 0:
        return math.nan
    x, y = [math.log(n) for n in frames], [math.log(s) for s in seconds]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - middle_x) ** 2 for a in x)
    return sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / spread


def beyond_tokens(run: Line) -> int:
    """Peak memory of ours in bytes, without the tokens cached."""
    peak: int = run["peak_memory_bytes"][OURS] - run["tokens_bytes"]
    return peak


def show(runs: Sequence[Line], growth: Growth, console: Console) -> None:
    """Rows: the total, the stages, tokens and memory; a column for every number of frames, then the growth."""
    last = runs[-1]
    title = f"{last['system']}, preset {last['preset']}: {runs[0]['frames']:,} to {last['frames']:,} frames"
    table = FigureTable(box=box.SIMPLE_HEAD, title=title, title_style="bold")
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
    table.add_row("CPU, s", *(_seconds(run["cpu_s"][OURS]) for run in runs), _power(growth.top_total), style="bold")
    for name, spent in last["stages_cpu_s"][OURS].items():
        times = [run["stages_cpu_s"][OURS].get(name, 0.0) for run in runs]
        share = f"{spent / last['cpu_s'][OURS]:.1%}"
        table.add_row(
            f"{short(last['system'], name)}, CPU s",
            *map(_seconds, times),
            _power(growth.top.get(name, math.nan)),
            share,
        )
    table.add_section()
    for label, key in (("frames a second", "frames_per_s"), ("first token after, s", "first_token_s")):
        found = [run[key][OURS] for run in runs]
        table.add_row(label, *("–" if one is None else _seconds(one) for one in found))
    table.add_row("tokens cached", *(f"{run['tokens']:,}" for run in runs))
    table.add_row("  MiB", *(f"{run['tokens_bytes'] / _MIB:.1f}" for run in runs))
    for path in last["total_s"]:
        peaks = [run["peak_memory_bytes"][path] / _MIB for run in runs]
        table.add_row(f"peak memory, {path}, MiB", *(f"{peak:,.0f}" for peak in peaks))
    console.print(table, crop=False)
    console.print(
        f"memory         {last['frames']:,} frames take {growth.memory - 1:+.1%} of the peak at {runs[0]['frames']:,},"
        " beyond the tokens cached"
    )
    console.print(
        "growth         time ~ frames^p, fitted over all columns; of CPU seconds t - a ~ frames^p over the top octave\n"
        "share          of the last column's total"
    )
    _show_fits(last["system"], growth, console)


def _show_fits(system: str, growth: Growth, console: Console) -> None:
    """Coefficients with their 95 % intervals."""
    table = FigureTable(box=box.SIMPLE_HEAD, title="t = a + bF + cF^2, CPU seconds")
    table.add_column("", no_wrap=True)
    for name in ("a, s", "b, ms a frame", "c, us a frame^2"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, fit in {"total": growth.cpu_total, **growth.cpu}.items():
        label = name if name == "total" else short(system, name)
        cells = (interval(*(unit * value for value in fit.of(power))) for power, unit in enumerate((1.0, 1e3, 1e6)))
        table.add_row(label, *cells, style="bold" if name == "total" else None)
    console.print(table, crop=False)
    for label, fit in (("peak", growth.peak), ("beyond", growth.beyond)):
        first, each = (interval(*(value / unit for value in fit.of(power))) for power, unit in ((0, _MIB), (1, 2**10)))
        beside = "" if label == "peak" else " beyond the tokens cached"
        console.print(f"peak           {first} MiB + F x {each} KiB{beside}")
    console.print("±              half a 95 % interval, by least squares; without one there were too few runs for it")


def interval(value: float, half: float) -> str:
    """A coefficient and half its interval, with the digits that the latter leaves."""
    if math.isnan(half):
        return f"{value:.4g}"
    digits = max(0, min(6, 1 - math.floor(math.log10(half)))) if half > 0 else 3
    return f"{value:.{digits}f} ± {half:.{digits}f}"


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
        "cpu_top_exponent": _number(growth.top_total),
        "cpu_top_exponents": {name: _number(p) for name, p in growth.top.items()},
        "cpu_fit": _json_fit(growth.cpu_total),
        "cpu_fits": {name: _json_fit(fit) for name, fit in growth.cpu.items()},
        "memory_fit": _json_fit(growth.peak),
        "memory_beyond_tokens_fit": _json_fit(growth.beyond),
        "ratios": {
            path: [run["total_s"][path] for run in runs] for path in (OURS, REFERENCE) if path in last["total_s"]
        },
    }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _json_fit(fit: Fit) -> dict[str, Any]:
    """Coefficients by power from 0 on, and half the 95 % interval of each, null without one."""
    return {"coefficients": list(fit.coefficients), "half_95": [_number(half) for half in fit.halves]}


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def _power(value: float) -> str:
    return "–" if math.isnan(value) else f"n^{value:.2f}"
