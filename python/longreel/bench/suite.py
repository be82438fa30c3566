"""The op benchmarks one after another inside a time budget, with a short table last: `python -m longreel.bench.suite`.

Needs torch only.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from longreel.bench.cases import BACKWARD, CASES, DTYPES, SIZES, BenchCase, measure, op_names, ops_of, shape_of
from longreel.bench.harness import SPENT
from longreel.bench.report import STEADY, Report
from longreel.bench.roof import RoofMeter
from longreel.bench.tables import QUIET, Cells, rate, seconds, size, text_table, times
from longreel.measure.machine import describe
from longreel.measure.memory import free_memory
from longreel.measure.stats import spread
from longreel.measure.time_left import TimeLeft

# What one case takes at least at the true size on a GPU; below it nothing new is started.
_LEAST = 5.0
# As `timeout` says it.
_TIME_OUT = 124


# The variants of a case by what --peers says.
PEERS: Mapping[str, Callable[[BenchCase], Sequence[str]]] = {
    "all": lambda case: [*case.kernels, *case.peers],
    "quick": lambda case: case.quick_names,
    "compiled": lambda case: [*case.kernels, *(name for name in case.peers if name not in case.quick_names)],
}


@dataclass(frozen=True)
class Result:
    """One case and what became of it: a report, or why there is none."""

    case: BenchCase
    report: Report | None
    why: str | None


def cases(
    device: torch.device,
    size: str,
    dtypes: Sequence[torch.dtype],
    ops: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    system: str | None = None,
) -> list[BenchCase]:
    """Every op, dtype and pass at its shape called `size`, `options` replacing what of it they name; the ones that matter
    most first: forward passes before backward ones. `system`: its ops alone, at its shapes."""
    names = ops or (op_names() if system is None else ops_of(system))
    listed = [
        (BACKWARD.index(backward), CASES[op](op, shape_of(op, size, options or {}, system), dtype, device, backward))
        for op in names
        for dtype in dtypes
        for backward in CASES[op].passes()
    ]
    return [case for _, case in sorted(listed, key=lambda pair: pair[0])]


def run(
    todo: Sequence[BenchCase],
    *,
    budget: float,
    results: Path | None = None,
    repeats: int = 10,
    names: Callable[[BenchCase], Sequence[str]] | None = None,
    probed: int = 2**30,
    finished: Callable[[Result], None] = lambda result: None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Measure `todo` within `budget` seconds, an equal share of what is left for each.

    A case that no kernel of ours can run, or that the budget or the memory does not reach, gives a result that says so.

    Args:
        todo: from `cases`.
        budget: seconds for everything.
        results: a folder; every report is appended to `<op>.jsonl` in it as soon as it is there.
        repeats: rounds of a case at most.
        names: the variants of a case; default our kernels and every peer.
        probed: bytes of the memory that the roof is measured on.
        finished: receives every result as soon as it is there.
        progress: receives a line before every step.
    """
    time_left, done = TimeLeft.of(budget), []
    # Of a small budget, half of an equal share is worth a start too.
    least = min(_LEAST, budget / max(len(todo), 1) / 2)
    for i, case in enumerate(todo):
        limit = time_left.limit(least=least)
        chosen = list(names(case)) if names is not None else [*case.kernels, *case.peers]
        why = _obstacle(case, chosen, limit)
        report = None
        if why is None and limit is not None:
            label = f"{case.op} {case.facts['dtype']} {case.facts['pass']}"
            report = measure(
                case,
                names=chosen,
                repeats=repeats,
                budget=limit / (len(todo) - i),
                roof=RoofMeter(case.device, case.dtype, probed),
                progress=lambda line, label=label: progress(f"{label}: {line}"),  # type: ignore[misc]
            )
            if results is not None:
                report.write(results / f"{case.op}.jsonl")
        case.release()
        done.append(Result(case, report, why))
        finished(done[-1])
    return done


HEADER = [
    "op", "dtype", "pass", "ours", "median", "over the best peer", "over naive", "of roof", "of sparsity bound", "extra mem",
    "FLOPs", "bytes",
]  # fmt: skip


def summary(results: Sequence[Result]) -> list[Cells]:
    """One row a case, under `HEADER`: the fastest kernel of ours against the peers, or why there is no figure."""
    return [cells(result) for result in results]


def cells(result: Result) -> Cells:
    """The row of one case."""
    report, facts = result.report, result.case.facts
    head = [str(facts["op"]), str(facts["dtype"]), str(facts["pass"])]
    if report is None:
        return [*head, result.why or ""]
    timed = [o.variant for o in report.outcomes if o.variant in result.case.kernels and o.samples]
    if not timed:
        return [
            *head,
            next((o.why for o in report.outcomes if o.variant in result.case.kernels and o.why), "not timed"),
        ]
    name = min(timed, key=lambda ours: _median(report, ours))
    peers = [o.variant for o in report.outcomes if o.variant in result.case.peers and o.samples]
    best = min(peers, key=lambda peer: _median(report, peer), default=None)
    over = times(None)
    if best and (ratio := report.speedup(name, best)):
        over = f"{times(ratio)}{'~' * (ratio.noise > STEADY)} {best}"
    naive = times(report.speedup(name, "naive") if "naive" in peers else None)
    sparse = report.sparsity_share(name)
    peak, share = report.outcome(name).peak, report.roof.seconds(report.work) / _median(report, name)
    return [
        *head,
        name,
        seconds(_median(report, name)),
        over,
        naive,
        f"{100 * share:.0f} %",
        times(None) if sparse is None else f"{100 * sparse:.0f} %",
        size(peak.extra if peak else None),
        rate(report.work.flops, "FLOP"),
        size(report.work.bytes),
    ]


def _median(report: Report, name: str) -> float:
    return spread(report.outcome(name).samples).median


def _obstacle(case: BenchCase, chosen: Sequence[str], limit: float | None) -> str | None:
    if limit is None:
        return SPENT
    if not set(chosen) & set(case.backends):
        return f"no kernel of ours runs this on {case.device.type}"
    free, needed = free_memory(case.device), case.bytes
    if free is not None and needed > free:
        return f"not run: inputs and outputs take {size(needed)}, {size(free)} are free"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """The suite on the GPU where there is one, else on the CPU; exit 1 if a kernel of ours failed or is inexact, else 124 if
    the time was spent before everything was measured."""
    parser = argparse.ArgumentParser(prog="python -m longreel.bench.suite", description=main.__doc__)
    parser.add_argument("--budget", type=float, default=300.0, help="seconds for everything (default 300)")
    parser.add_argument(
        "--until", type=float, help="on time.monotonic(), in place of a budget: what it took to begin counts"
    )
    parser.add_argument("--results", type=Path, help="folder for <op>.jsonl")
    parser.add_argument("--size", choices=list(SIZES), default="hour", help="shapes of the inputs (default hour)")
    parser.add_argument("--dtype", choices=list(DTYPES), action="append", help="default bf16 and fp32")
    parser.add_argument("--op", choices=op_names(), action="append", help="default every op")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="replaces a number of the shapes, as heads=32",
    )
    parser.add_argument(
        "--peers",
        choices=PEERS,
        default="all",
        help="all; quick: those that torch.compile does not make first, which takes longer than to measure them; compiled: those",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args(arguments)
    dtypes = [DTYPES[name] for name in chosen.dtype or ("bf16", "fp32")]
    options = {name: int(number) for name, _, number in (given.partition("=") for given in chosen.shape)}
    todo = cases(torch.device(chosen.device), chosen.size, dtypes, chosen.op, options)
    print(
        f"{len(todo)} case{'s' * (len(todo) != 1)} of size {chosen.size} on {describe(torch.device(chosen.device))['device']}",
        flush=True,
    )
    results: list[Result] = []

    def finished(result: Result) -> None:
        results.append(result)
        print("  ".join(cells(result)), flush=True)

    def progress(line: str) -> None:
        # a line each of ten rounds tells a file nothing
        if sys.stderr.isatty() or ": round " not in line:
            print(f"  {line}", file=sys.stderr, flush=True)

    stopped = False
    try:
        run(
            todo,
            budget=chosen.budget if chosen.until is None else chosen.until - time.monotonic(),
            results=chosen.results,
            names=PEERS[chosen.peers],
            finished=finished,
            progress=progress,
        )
    except KeyboardInterrupt:
        stopped = True
        print(f"stopped: {len(results)} of {len(todo)} cases are done")
    if any(result.report for result in results):
        print("\n" + text_table(HEADER, summary(results)))
    noisy = max((r.report.others or 0 for r in results if r.report), default=0)
    if noisy >= QUIET:
        print(f"NOT A QUIET MACHINE: other processes took up to {100 * noisy:.0f} % of it; these figures do not stand")
    if any(failures(result) for result in results):
        return 1
    return _TIME_OUT if stopped or any(cut(result) for result in results) else 0


def cut(result: Result) -> bool:
    """Whether the time was spent before every variant of the case was measured."""
    outcomes = result.report.outcomes if result.report else ()
    return SPENT in (result.why, *(outcome.why for outcome in outcomes))


def failures(result: Result) -> list[str]:
    """Kernels of ours that were run and gave no time, with the reason."""
    outcomes = result.report.outcomes if result.report else ()
    return [f"{o.variant}: {o.why}" for o in outcomes if o.variant in result.case.kernels and o.why and not o.refused]


if __name__ == "__main__":
    sys.exit(main())
