"""Results of op benchmarks as pairs of ours and a peer, and the cells that tables make of them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from longreel.bench.cases import CASES
from longreel.bench.report import STEADY
from longreel.bench.tables import QUIET
from longreel.measure.stats import Spread
from longreel.report.result_lines import DTYPES, PASSES, SCRIPTS, Line

END_TO_END = "end_to_end.jsonl"
NOISY = (
    f"\\* noisy: other processes took more than {QUIET:.0%} of the machine during this run, or another may differ by more than "
    f"{STEADY:.0%}, since its two halves do or its rounds scatter: its ratio does not stand."
)


@dataclass(frozen=True)
class Pair:
    """One of our variants beside one peer, in one run."""

    ours: Line
    peer: Line

    @property
    def case(self) -> tuple[str, ...]:
        """What a newer run of the same replaces."""
        names = self.ours["variant"], self.peer["variant"]
        return (*(self.ours[key] for key in ("op", "shape", "pass", "dtype")), *names)

    @property
    def ratio(self) -> Line | None:
        found: Line | None = self.ours["speedup_over"].get(self.peer["variant"])
        return found


def is_ours(line: Line) -> bool:
    """Whether a variant is longreel's; the harness notes the function that it calls."""
    return str(line["note"]).startswith(("longreel.", "nn."))


def every_pair(lines: Sequence[Line]) -> list[Pair]:
    """Every variant of ours beside every peer that was timed in the same run."""
    found = []
    for _, run in groupby(
        lines, key=lambda line: (line["op"], line["shape"], line["pass"], line["dtype"], _date(line))
    ):
        timed = [line for line in run if line["seconds"]]
        found += [Pair(ours, peer) for ours in timed if is_ours(ours) for peer in timed if not is_ours(peer)]
    return found


def newest(found: Sequence[Pair]) -> list[Pair]:
    """Of each case the newest run; fastest peer first."""
    last = {pair.case: pair for pair in sorted(found, key=lambda pair: _date(pair.ours))}
    return sorted(last.values(), key=_place)


def _date(line: Line) -> str:
    return str(line["machine"]["date"])


def _place(pair: Pair) -> tuple[Any, ...]:
    line = pair.ours
    usual = line["op"] not in CASES or line["shape"] == str(CASES[line["op"]].SIZES["hour"])
    place = list(PASSES).index(line["pass"])
    return line["op"], not usual, line["shape"], place, line["dtype"], line["variant"], pair.peer["seconds"]["median"]


def peers(found: Sequence[Pair]) -> list[str]:
    """What the peers are."""
    notes = {pair.peer["variant"]: pair.peer["note"] for pair in found if pair.peer["note"]}
    return [f"- `{name}`: {note}" for name, note in sorted(notes.items())]


def over(pair: Pair) -> str:
    """The ratio with its quartiles, and a star where it does not stand."""
    ratio = pair.ratio
    said = "–" if ratio is None else f"{ratio['median']:.2f}x ({ratio['low']:.2f}–{ratio['high']:.2f})"
    return said + " \\*" * noisy(pair)


def commit(line: Line) -> str:
    git = line["machine"]["git"]
    return f"{git[:7]}{'+' * git.endswith('+')}" if git else "–"


def noisy(pair: Pair) -> bool:
    """Whether the ratio does not stand: a machine that was not quiet, rounds that scatter or whose halves disagree."""
    ratio, noise = pair.ratio, 0.0
    if ratio:
        # Older lines say neither how many rounds there were nor what their halves gave.
        noise = Spread(ratio["median"], ratio["low"], ratio["high"], ratio.get("runs", 1), ratio.get("halves")).noise
    return (pair.ours["taken_by_others"] or 0.0) >= QUIET or noise > STEADY


def commands(op: str, rows: Sequence[Pair]) -> list[str]:
    """What measures these rows again."""
    lines = [pair.ours for pair in rows]
    dtypes = _options("dtype", (DTYPES[line["dtype"]] for line in lines))
    if op in SCRIPTS:
        return [f"{SCRIPTS[op]} {dtype}" for dtype in dtypes]
    words = [f"longreel bench --op {op}", *dtypes]
    usual = CASES[op].SIZES["hour"]
    # Older lines lack the batch of Q-Formers, which is the usual one in all of them.
    shape = {field.name: lines[0][field.name] for field in fields(usual) if field.name in lines[0]}
    words += [f"--{n.replace('_', '-')} {value}" for n, value in shape.items() if value != getattr(usual, n)]
    words += _options("backward", (PASSES[line["pass"]] for line in lines))
    words += _options("backend", (line["variant"] for line in lines))
    return [" ".join([*words, *_options("peer", (pair.peer["variant"] for pair in rows))])]


def _options(name: str, values: Iterable[str]) -> list[str]:
    return [f"--{name} {value}" for value in dict.fromkeys(values)]


def machine(machines: Sequence[Line]) -> str:
    machine = max(machines, key=lambda m: m["date"])
    where = f"CUDA {machine['cuda']}" if machine["cuda"] else machine["cpu_isa"]
    dates = sorted({m["date"][:10] for m in machines})
    between = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{machine['device']}, {where}, {machine['threads']} threads, torch {machine['torch']}; {between}."


def op_lines(folder: Path) -> list[Line]:
    return [line for path in sorted(folder.glob("*.jsonl")) if path.name != END_TO_END for line in read(path)]


def read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def on_gpu(results: Path) -> bool:
    return any(line.get("machine", line)["cuda"] for path in results.glob("*/*.jsonl") for line in read(path))
