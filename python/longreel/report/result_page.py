"""Results as one HTML page that needs nothing else: op tables and plots, whole runs, sweeps, machines and commands."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from longreel.bench.cases import CASES
from longreel.files.foreign import plain
from longreel.report import growth_picture, headline_table, html, op_picture, op_table
from longreel.report.end_to_end_table import HEAD, Line, runs_tables
from longreel.report.growth import Growth
from longreel.report.result_lines import GROWTH, HEADLINE, OP, RUN, SWEPT, check_sweep, read_sorted
from longreel.report.result_pairs import NOISY, Pair, commands, every_pair, machine, newest, noisy, peers

_ABOUT = (
    "Medians of interleaved runs; a ratio is the peer's time over ours, taken within each round, with its quartiles. Every result"
    " was checked against float64 before it was timed. Memory is the peak of one call beyond inputs and outputs. FLOPs and bytes"
    " are the op's own count; of roof: the time they need at the bandwidth or matrix rate that plain PyTorch reached in the same"
    " run, over the time it took; of sparsity bound: the same of the visible pairs alone at the rate of dense attention."
)


@dataclass
class Results:
    """Lines of result files by what they are: op benchmarks, whole runs, runs of sweeps over frames."""

    name: str
    ops: list[Line] = field(default_factory=list)
    runs: list[Line] = field(default_factory=list)
    headlines: list[Line] = field(default_factory=list)
    sweeps: list[list[Line]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The folder's name, unless it holds no results of a machine."""
        return self.name if self.ops or self.runs or self.sweeps else "Headline settings of the papers"

    def __bool__(self) -> bool:
        return bool(self.ops or self.runs or self.headlines or self.sweeps)


def gathered(paths: Sequence[Path]) -> list[Results]:
    """What files, and the .jsonl files of folders, hold: one `Results` a folder that files stand in.

    Raises:
        ValueError: a path that is not there, a line that is no JSON object, or nothing that belongs on the page.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} is not there")
        files += sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    found: dict[Path, Results] = {}
    for file in files:
        place = file.resolve().parent
        _add(file, found.setdefault(place, Results(place.name)))
    results = [one for one in found.values() if one]
    if not results:
        named = ", ".join(str(path) for path in paths)
        raise ValueError(
            f"{named}: no results of `longreel bench --json`, `longreel profile --json` or benchmarks/end_to_end.py"
        )
    return results


def _add(file: Path, into: Results) -> None:
    sweep: list[Line] = []
    lines = {OP: into.ops, RUN: into.runs, HEADLINE: into.headlines, SWEPT: sweep}
    for sort, line in read_sorted(file):
        if sort != GROWTH:
            lines[sort].append(line)
        elif sweep:
            check_sweep(sweep, str(file))
            into.sweeps.append([*sweep])
            sweep.clear()


def result_page(results: Sequence[Results]) -> str:
    """The whole page."""
    parts: list[str] = (
        [html.contents([(f"r{i}", one.title) for i, one in enumerate(results)])] if len(results) > 1 else []
    )
    for i, one in enumerate(results):
        parts.append(html.heading(2, one.title, f"r{i}"))
        parts += [
            *_ops(one.ops, f"r{i}"),
            *_whole_runs(one.runs),
            *_headlines(one.headlines),
            *(part for sweep in one.sweeps for part in _sweep(sweep)),
        ]
    return plain(html.page("longreel: what was measured", parts, _ABOUT))


def _ops(lines: Sequence[Line], anchor: str) -> list[str]:
    found = newest(every_pair(lines))
    if not found:
        return []
    by_op = [(op, list(group)) for op, group in groupby(found, key=lambda pair: str(pair.ours["op"]))]
    parts = [
        html.paragraph(machine([line["machine"] for line in lines])),
        html.contents([(f"{anchor}-{op}", op) for op, _ in by_op]),
    ]
    best = _best(found)
    if len(best) > 1:
        said = "Each op's forward pass over its fastest peer"
        parts += [html.paragraph(said + ":"), html.picture(op_picture.ratios(best, True), "svg+xml", said)]
    missing = [op for op in CASES if op not in dict(by_op)]
    if missing:
        parts.append(html.paragraph(f"Not measured here: {', '.join(missing)}.", soft=True))
    for op, pairs in by_op:
        parts += [html.heading(3, op, f"{anchor}-{op}"), *_op(op, pairs)]
    return parts


def _best(found: Sequence[Pair]) -> list[Pair]:
    """The fastest peer of every forward pass at an op's usual shape, or at the first there is."""
    forward = [pair for pair in found if pair.ours["pass"] == "forward" and pair.ratio]
    first = {str(op): next(group).ours["shape"] for op, group in groupby(forward, key=lambda pair: pair.ours["op"])}
    usual = [pair for pair in forward if pair.ours["shape"] == first[pair.ours["op"]]]
    groups = groupby(usual, key=lambda pair: [pair.ours[key] for key in ("op", "dtype", "variant")])
    return [min(group, key=lambda pair: float(pair.peer["seconds"]["median"])) for _, group in groups]


def _op(op: str, pairs: Sequence[Pair]) -> list[str]:
    parts: list[str] = []
    for shape, group in groupby(pairs, key=lambda pair: str(pair.ours["shape"])):
        rows = list(group)
        marks = [noisy(pair) for pair in rows]
        cells = [[cell.replace(" \\*", " *") for cell in op_table.row(pair)] for pair in rows]
        parts += [
            html.paragraph(f"{shape[0].upper()}{shape[1:]}:"),
            html.table(op_table.HEAD, cells, op_table.LEFT, marks),
        ]
        if any(marks):
            parts.append(html.paragraph(NOISY.replace("\\*", "*"), soft=True))
        if len(rows) > 1 and any(pair.ratio for pair in rows):
            parts.append(html.picture(op_picture.ratios(rows, False), "svg+xml", f"{op}, {shape}: ratios over peers"))
        parts.append(html.commands(commands(op, rows)))
    said = [line.removeprefix("- ").replace("`", "") for line in peers(pairs)]
    how = {str(pair.ours["allocated"]) for pair in pairs if pair.ours.get("allocated")}
    return [*parts, html.listed([*said, *(f"results: memory {one}" for one in sorted(how))])]


def _whole_runs(lines: Sequence[Line]) -> list[str]:
    if not lines:
        return []
    parts = [html.heading(3, "End to end"), html.paragraph(machine(lines))]
    for name, rows, shells, bars in runs_tables(lines):
        parts += [html.paragraph(f"{name}, random weights:"), html.table(HEAD, rows, 4)]
        if bars:
            labels = [str(bar["label"]) for bar in bars]
            parts.append(html.picture(op_picture.stage_shares(bars, labels), "svg+xml", f"{name}: where the time goes"))
        parts.append(html.commands(shells))
    return parts


def _headlines(lines: Sequence[Line]) -> list[str]:
    if not lines:
        return []
    said = "Headline settings of the papers, by formula, true sizes, bfloat16 on a GPU; only what says so was measured."
    found = html.table(headline_table.HEAD, headline_table.rows(lines), headline_table.LEFT)
    return [html.paragraph(said), found, html.listed(headline_table.notes(lines))]


def _sweep(runs: Sequence[Line]) -> list[str]:
    last = runs[-1]
    title = f"{last['system']}, preset {last['preset']}: growth from {runs[0]['frames']:,} to {last['frames']:,} frames"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "growth.svg"
        growth_picture.draw(runs, Growth.of(runs), path)
        drawn = path.read_bytes()
    head = ["frames", "total, s", "tokens cached", "peak, MiB"]
    rows = [
        [
            f"{run['frames']:,}", f"{run['total_s']['longreel']:.2f}", f"{run['tokens']:,}",
            f"{run['peak_memory_bytes']['longreel'] / 2**20:,.0f}",
        ]
        for run in runs
    ]  # fmt: skip
    return [html.heading(3, title), html.picture(drawn, "svg+xml", title), html.table(head, rows, 0)]
