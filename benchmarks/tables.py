"""docs/benchmarks.md and README's figures from benchmarks/results/<device>/*.jsonl: `python benchmarks/tables.py [--check]`
(`make docs`).

Of every case, variant and peer the newest run is shown. In README the part between `<!-- made by benchmarks/tables.py: OP -->`
and `<!-- end -->` is made. --check writes nothing and exits 1 where one of them is out of date.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from end_to_end_table import runs_section

from longreel.bench.cases import CASES
from longreel.bench.tables import QUIET, markdown, seconds, size

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results", HERE.parent / "docs/benchmarks.md"
README = HERE.parent / "README.md"
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
    return [*out, *_peers(found), ""]


def _peers(found: Sequence[Pair]) -> list[str]:
    """What the peers are."""
    notes = {pair.peer["variant"]: pair.peer["note"] for pair in found if pair.peer["note"]}
    return [f"- `{name}`: {note}" for name, note in sorted(notes.items())]


def _row(pair: Pair) -> list[str]:
    ours, peer = pair.ours, pair.peer
    return [
        ours["pass"], _DTYPES[ours["dtype"]], f"`{ours['variant']}`", f"`{peer['variant']}`",
        seconds(ours["seconds"]["median"]), seconds(peer["seconds"]["median"]), _over(pair),
        size(ours["extra_bytes"]), size(peer["extra_bytes"]), _commit(ours),
    ]  # fmt: skip


def _over(pair: Pair) -> str:
    """The ratio with its quartiles, and a star where it does not stand."""
    ratio = pair.ratio
    said = "–" if ratio is None else f"{ratio['median']:.2f}x ({ratio['low']:.2f}–{ratio['high']:.2f})"
    return said + " \\*" * _noisy(pair)


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


def device_section(folder: Path) -> list[str]:
    """The tables of one device, and what has none."""
    lines = _op_lines(folder)
    whole = _read(folder / END_TO_END) if (folder / END_TO_END).exists() else []
    found = newest(every_pair(lines))
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


def _op_lines(folder: Path) -> list[Line]:
    return [line for path in sorted(folder.glob("*.jsonl")) if path.name != END_TO_END for line in _read(path)]


def _read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def page(results: Path) -> str:
    """The whole page; what was not measured is named."""
    files = sorted(results.glob("*/*.jsonl"))
    out = [_INTRO]
    for folder in sorted({path.parent for path in files}):
        out += device_section(folder)
    if not _on_gpu(results):
        out += ["## GPU", "", "Not measured: no card has run the benchmarks yet (`make gpu` does).", ""]
    return "\n".join(out).rstrip() + "\n"


def _on_gpu(results: Path) -> bool:
    return any(line.get("machine", line)["cuda"] for path in results.glob("*/*.jsonl") for line in _read(path))


_MADE = re.compile(r"(<!-- made by benchmarks/tables.py: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
# Of an op's cases README shows the usual size, and those that differ from it in nothing but one of these columns.
_COLUMNS = {
    "block_sparse_attention": {
        "head size": "head_dim",
        "executed over visible FLOPs": "executed_over_visible_{variant}",
    }
}
_BESIDE = ["over the strongest PyTorch (quartiles)", "in earlier runs", "over other forms", "memory (theirs)"]


def readme(text: str, results: Path) -> str:
    """README with its made parts made anew; ValueError for a part that names no op."""
    return _MADE.sub(lambda made: f"{made[1]}{_readme_part(made[2], results)}{made[3]}", text)


def _readme_part(op: str, results: Path) -> str:
    if op not in (*CASES, *_SCRIPTS):
        raise ValueError(f"README asks for the figures of {op!r}: there is {', '.join((*CASES, *_SCRIPTS))}")
    out: list[str] = []
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        found = [pair for pair in every_pair(_op_lines(folder)) if pair.ours["op"] == op and _in_readme(pair.ours)]
        if found:
            out += _readme_table(op, found)
    if not _on_gpu(results):
        out += ["On a GPU: not measured yet (`make gpu` does).", ""]
    return "\n".join(["", *out, ""])


def _in_readme(line: Line) -> bool:
    if line["op"] not in CASES:
        return True
    usual, free = CASES[line["op"]].SIZES["hour"], _COLUMNS.get(line["op"], {}).values()
    return all(line[f.name] == getattr(usual, f.name) for f in fields(usual) if f.name not in free)


def _readme_table(op: str, found: Sequence[Pair]) -> list[str]:
    """One row a case and variant of ours, beside all of its peers; then commands, and what the peers are."""
    shown = newest(found)
    shapes = "; ".join(dict.fromkeys(pair.ours["shape"] for pair in shown))
    columns = _COLUMNS.get(op, {})
    groups = groupby(shown, key=lambda pair: [pair.ours[key] for key in ("shape", "pass", "dtype", "variant")])
    rows = [_readme_row(list(group), found, columns.values()) for _, group in groups]
    out = [f"{shapes[0].upper()}{shapes[1:]}. {_machine([pair.ours['machine'] for pair in shown])}", ""]
    out += [*markdown(["pass", "dtype", *columns, "ours", *_BESIDE], rows, range(2)), ""]
    if any(_noisy(pair) for pair in shown):
        out += [_NOISY, ""]
    by_shape = groupby(shown, key=lambda pair: pair.ours["shape"])
    return [
        *out, "```", *(line for _, group in by_shape for line in commands(op, list(group))), "```", "",
        *_peers(shown), "",
    ]  # fmt: skip


def _readme_row(group: Sequence[Pair], found: Sequence[Pair], columns: Iterable[str]) -> list[str]:
    best, others = group[0], group[1:]
    ours = best.ours
    earlier = sorted(p.ratio["median"] for p in found if p.case == best.case and p is not best and p.ratio)
    ends = [f"{ratio:.2f}x" for ratio in dict.fromkeys((earlier[0], earlier[-1]))] if earlier else ["–"]
    asked = [ours.get(key.format(variant=ours["variant"])) for key in columns]
    names = ", ".join(f"`{pair.peer['variant']}` {size(pair.peer['extra_bytes'])}" for pair in group)
    return [
        ours["pass"], _DTYPES[ours["dtype"]],
        *("–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value) for value in asked),
        f"{seconds(ours['seconds']['median'])} (`{ours['variant']}`)", f"`{best.peer['variant']}` {_over(best)}",
        "–".join(ends), ", ".join(f"`{pair.peer['variant']}` {_over(pair)}" for pair in others) or "–",
        f"{size(ours['extra_bytes'])} ({names})",
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page is out of date")
    there = {path: path.read_text(encoding="utf-8") if path.exists() else "" for path in (PAGE, README)}
    wanted = {PAGE: page(RESULTS), README: readme(there[README], RESULTS)}
    changed = [path for path in wanted if wanted[path] != there[path]]
    if parser.parse_args().check:
        for path in changed:
            print(f"{path.name} is out of date with benchmarks/results: make docs", file=sys.stderr)
        return int(bool(changed))
    for path in changed:
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
