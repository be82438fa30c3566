"""docs/benchmarks.md from benchmarks/results/<device>/*.jsonl: `python benchmarks/tables.py [--check]` (`make docs`).

Of every case, variant and peer the newest run is shown. --check writes nothing and exits 1 where the page is out of date.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from longreel.bench.cases import CASES
from longreel.bench.tables import QUIET, markdown, seconds, size

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results", HERE.parent / "docs/benchmarks.md"
END_TO_END = "end_to_end.jsonl"

Line = dict[str, Any]

_DTYPES = {"bfloat16": "bf16", "float32": "fp32", "float16": "fp16"}
_PASSES = {"forward": "none", "forward + backward (query)": "query", "forward + backward (all)": "all"}
_SCRIPTS = {"token_generation": "python benchmarks/token_generation.py"}
_TIMES = ["time", "peer's time", "ratio (quartiles)", "memory", "peer's memory"]
_HEAD = ["pass", "dtype", "ours", "peer", *_TIMES, "commit"]
_INTRO = """# Measured

Made from `benchmarks/results/` by `make docs`; not by hand. Medians of interleaved runs, outputs allocated inside the call;
a ratio is the peer's time over ours, taken within each round, with its quartiles. Memory is the peak of one call beyond inputs
and outputs. A backward pass makes the gradients of `all` inputs, or of the `query` alone (frozen patches). A commit with a + had
changes on top. How it is measured: [benchmarks/README.md](../benchmarks/README.md).
"""
_NOISY = f"\\* other processes took more than {QUIET:.0%} of the machine during this run: its ratio does not stand."


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


def pairs(lines: Sequence[Line]) -> list[Pair]:
    """Every variant of ours beside every peer that was timed in the same run, the newest of each; fastest peer first."""
    newest: dict[tuple[str, ...], Pair] = {}
    for _, run in groupby(
        lines, key=lambda line: (line["op"], line["shape"], line["pass"], line["dtype"], _date(line))
    ):
        variants = list(run)
        timed = [line for line in variants if line["seconds"]]
        for ours in filter(is_ours, timed):
            for peer in (line for line in timed if not is_ours(line)):
                pair = Pair(ours, peer)
                if pair.case not in newest or _date(newest[pair.case].ours) <= _date(ours):
                    newest[pair.case] = pair
    return sorted(newest.values(), key=_place)


def _date(line: Line) -> str:
    return str(line["machine"]["date"])


def _place(pair: Pair) -> tuple[Any, ...]:
    line = pair.ours
    usual = line["op"] not in CASES or line["shape"] == str(CASES[line["op"]].SIZES["hour"])
    place = list(_PASSES).index(line["pass"])
    return line["op"], not usual, line["shape"], place, line["dtype"], line["variant"], pair.peer["seconds"]["median"]


def op_section(op: str, found: Sequence[Pair]) -> list[str]:
    """A table for every shape, with the command that measures it, and what the peers are."""
    out = [f"### {op}", ""]
    for shape, group in groupby(found, key=lambda pair: pair.ours["shape"]):
        rows = list(group)
        out += [f"{shape[0].upper()}{shape[1:]}:", "", *markdown(_HEAD, [_row(pair) for pair in rows], range(4)), ""]
        if any(_noisy(pair) for pair in rows):
            out += [_NOISY, ""]
        out += ["```", *commands(op, rows), "```", ""]
    notes = {pair.peer["variant"]: pair.peer["note"] for pair in found if pair.peer["note"]}
    return [*out, *(f"- `{name}`: {note}" for name, note in sorted(notes.items())), ""]


def _row(pair: Pair) -> list[str]:
    ours, peer, ratio = pair.ours, pair.peer, pair.ratio
    said = "–" if ratio is None else f"{ratio['median']:.2f}x ({ratio['low']:.2f}–{ratio['high']:.2f})"
    return [
        ours["pass"], _DTYPES[ours["dtype"]], f"`{ours['variant']}`", f"`{peer['variant']}`",
        seconds(ours["seconds"]["median"]), seconds(peer["seconds"]["median"]), said + " \\*" * _noisy(pair),
        size(ours["extra_bytes"]), size(peer["extra_bytes"]), _commit(ours),
    ]  # fmt: skip


def _commit(line: Line) -> str:
    git = line["machine"]["git"]
    return f"{git[:7]}{'+' * git.endswith('+')}" if git else "–"


def _noisy(pair: Pair) -> bool:
    return (pair.ours["taken_by_others"] or 0.0) >= QUIET


def commands(op: str, rows: Sequence[Pair]) -> list[str]:
    """What measures these rows again."""
    lines = [pair.ours for pair in rows]
    dtypes = _options("dtype", (_DTYPES[line["dtype"]] for line in lines))
    if op in _SCRIPTS:
        return [f"{_SCRIPTS[op]} {dtype}" for dtype in dtypes]
    words = [f"longreel bench --op {op}", *dtypes]
    usual = CASES[op].SIZES["hour"]
    shape = {field.name: lines[0][field.name] for field in fields(usual)}
    words += [f"--{n.replace('_', '-')} {value}" for n, value in shape.items() if value != getattr(usual, n)]
    words += _options("backward", (_PASSES[line["pass"]] for line in lines))
    words += _options("backend", (line["variant"] for line in lines))
    return [" ".join([*words, *_options("peer", (pair.peer["variant"] for pair in rows))])]


def _options(name: str, values: Iterable[str]) -> list[str]:
    return [f"--{name} {value}" for value in dict.fromkeys(values)]


_STAGES = {"query": "Q-Former", "compress": "compression", "see": "vision stage", "language": "language model"}
_RUNS = ["input", "card", "path", "share of each stage", "frames", "total", "ratio", "first token", "tokens/s", "peak"]


def runs_section(lines: Sequence[Line]) -> list[str]:
    """End-to-end runs, a table a system: what ran, and what did not fit or was not reached by name."""
    newest = {tuple(line["case"].items()): line for line in lines}
    out = ["### End to end", ""]
    for name, group in groupby(sorted(newest.values(), key=_system), key=_system):
        chosen = list(group)
        out += [
            f"{name}, random weights:",
            "",
            *markdown(_RUNS, [_run_row(line, chosen) for line in chosen], range(4)),
            "",
        ]
        out += ["```", *(line["shell"] for line in chosen if line["outcome"] == "ok"), "```", ""]
    return out


def _system(line: Line) -> str:
    return f"{line['case']['system']}, preset {line['case']['preset']}"


def _run_row(line: Line, others: Sequence[Line]) -> list[str]:
    case, cap = line["case"], line["case"]["memory_cap_gib"]
    head = [case["input"], "whole" if cap is None else f"{cap:g} GiB", case["ops"] + " at once" * case["at_once"]]
    if line["outcome"] != "ok":
        return [*head, line["outcome"], f"{case['frames']:,}", *["–"] * 5]
    path = "reference" if case["ops"] == "reference" else "longreel"
    total, first, rate = line["total_s"][path], line["first_token_s"][path], line["tokens_per_s"][path]
    shares = ", ".join(
        f"{_STAGES.get(stage, stage)} {spent / total:.0%}" for stage, spent in line["stages_s"][path].items()
    )
    over = _over_reference(line, others)
    return [
        *head, shares, f"{case['frames']:,}", seconds(total), "–" if over is None else f"{over:.2f}x", seconds(first),
        "–" if rate is None else f"{rate:.0f}", size(line["peak_memory_bytes"][path]),
    ]  # fmt: skip


def _over_reference(line: Line, others: Sequence[Line]) -> float | None:
    """The reference path's seconds over ours, in the same run or one of the same frames."""
    case = line["case"]
    if case["ops"] == "both":
        found: float = line["end_to_end_ratio"]
        return found
    for other in others:
        twin = {**other["case"], "ops": case["ops"], "at_once": case["at_once"]}
        if case["ops"] == "longreel" and other["case"]["ops"] == "reference" and twin == case and "total_s" in other:
            return float(other["total_s"]["reference"] / line["total_s"]["longreel"])
    return None


def device_section(folder: Path) -> list[str]:
    """The tables of one device, and what has none."""
    lines = [line for path in sorted(folder.glob("*.jsonl")) if path.name != END_TO_END for line in _read(path)]
    whole = _read(folder / END_TO_END) if (folder / END_TO_END).exists() else []
    found = pairs(lines)
    out = [f"## {folder.name}", "", _machine([*(line["machine"] for line in lines), *whole]), ""]
    missing = [op for op in CASES if op not in {pair.ours["op"] for pair in found}] + ["end to end"] * (not whole)
    if missing:
        out += [f"Not measured here: {', '.join(missing)}.", ""]
    for op, group in groupby(found, key=lambda pair: str(pair.ours["op"])):
        out += op_section(op, list(group))
    return out + (runs_section(whole) if whole else [])


def _machine(machines: Sequence[Line]) -> str:
    machine = max(machines, key=lambda m: m["date"])
    where = f"CUDA {machine['cuda']}" if machine["cuda"] else machine["cpu_isa"]
    dates = sorted({m["date"][:10] for m in machines})
    between = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{machine['device']}, {where}, {machine['threads']} threads, torch {machine['torch']}; {between}."


def _read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def page(results: Path) -> str:
    """The whole page; what was not measured is named."""
    files = sorted(results.glob("*/*.jsonl"))
    out = [_INTRO]
    for folder in sorted({path.parent for path in files}):
        out += device_section(folder)
    if not any(line.get("machine", line)["cuda"] for path in files for line in _read(path)):
        out += ["## GPU", "", "Not measured: no card has run the benchmarks yet (`make gpu` does).", ""]
    return "\n".join(out).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page is out of date")
    wanted, there = page(RESULTS), PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if parser.parse_args().check:
        if wanted != there:
            print("docs/benchmarks.md is out of date with benchmarks/results: make docs", file=sys.stderr)
        return int(wanted != there)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
