"""docs/benchmarks.md and the figures of README and docs/figures.md from benchmarks/results/<device>/*.jsonl:
`python benchmarks/tables.py [--check]` (`make figures`).

Of every case, variant and peer the newest run is shown. Elsewhere the part between `<!-- made by benchmarks/tables.py: OP -->`
and `<!-- end -->` is made; of OP `headline`, a line of each of three ops. --check writes nothing and exits 1 where one of them
is out of date.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from figures import filled

from longreel.bench.cases import CASES
from longreel.bench.tables import markdown
from longreel.files.output import write_text
from longreel.report import headline_table, op_table
from longreel.report.end_to_end_table import runs_section
from longreel.report.result_pairs import (
    END_TO_END,
    NOISY,
    Line,
    Pair,
    commands,
    every_pair,
    machine,
    newest,
    noisy,
    on_gpu,
    op_lines,
    peers,
    read,
)

HEADLINES = "headlines.jsonl"
HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results", HERE.parent / "docs/benchmarks.md"
README, FIGURES = HERE.parent / "README.md", HERE.parent / "docs/figures.md"

_INTRO = """# Measured

Made from `benchmarks/results/` by `make docs`; not by hand. Medians of interleaved runs, outputs allocated inside the call;
a ratio is the peer's time over ours, taken within each round, with its quartiles. Memory is the peak of one call beyond inputs
and outputs. A backward pass makes the gradients of `all` inputs, or of the `query` alone (frozen patches). A commit with a + had
changes on top. Of roof, of sparsity bound: what share of the time would do at the machine's rates.
How it is measured: [the benchmarks' own page](../benchmarks/README.md).
"""


def op_section(op: str, found: Sequence[Pair]) -> list[str]:
    """A table for every shape, with the command that measures it, and what the peers are."""
    out = [f"### {op}", ""]
    for shape, group in groupby(found, key=lambda pair: pair.ours["shape"]):
        rows = list(group)
        out += [
            f"{shape[0].upper()}{shape[1:]}:",
            "",
            *markdown(op_table.HEAD, [_row(pair) for pair in rows], range(op_table.LEFT)),
            "",
        ]
        if any(noisy(pair) for pair in rows):
            out += [NOISY, ""]
        out += ["```", *commands(op, rows), "```", ""]
    return [*out, *peers(found), ""]


def _row(pair: Pair) -> list[str]:
    """Variants are names of options."""
    return [f"`{cell}`" if place in (2, 3) else cell for place, cell in enumerate(op_table.row(pair))]


def device_section(folder: Path) -> list[str]:
    """The tables of one device, and what has none."""
    lines = op_lines(folder)
    whole = read(folder / END_TO_END) if (folder / END_TO_END).exists() else []
    found = newest(every_pair(lines))
    out = [f"## {folder.name}", "", machine([*(line["machine"] for line in lines), *whole]), ""]
    missing = [op for op in CASES if op not in {pair.ours["op"] for pair in found}] + ["end to end"] * (not whole)
    if missing:
        out += [f"Not measured here: {', '.join(missing)}.", ""]
    for op, group in groupby(found, key=lambda pair: str(pair.ours["op"])):
        out += op_section(op, list(group))
    return out + (runs_section(whole) if whole else [])


def page(results: Path) -> str:
    """The whole page; what was not measured is named."""
    files = sorted(results.glob("*/*.jsonl"))
    out = [_INTRO]
    for folder in sorted({path.parent for path in files}):
        out += device_section(folder)
    if not on_gpu(results):
        out += ["## GPU", "", "Not measured: no card has run the benchmarks yet (`make gpu` does).", ""]
    if (results / HEADLINES).exists():
        out += _headlines(read(results / HEADLINES))
    return "\n".join(out).rstrip() + "\n"


def _headlines(lines: Sequence[Line]) -> list[str]:
    """The settings that the papers lead with."""
    table = markdown(headline_table.HEAD, headline_table.rows(lines), (0, 7, 8))
    said = (
        "By formula (`longreel plan`), true sizes, bfloat16 on a GPU: what a run takes; only what says so was measured."
    )
    notes = [f"- {note}" for note in headline_table.notes(lines)]
    command = ["```", "python benchmarks/headlines.py", "```"]
    return ["## Headline settings of the papers", "", said, "", *table, "", *notes, "", *command, ""]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page is out of date")
    there = {path: path.read_text(encoding="utf-8") if path.exists() else "" for path in (PAGE, README, FIGURES)}
    wanted = {PAGE: page(RESULTS)} | {path: filled(there[path], RESULTS) for path in (README, FIGURES)}
    changed = [path for path in wanted if wanted[path] != there[path]]
    if parser.parse_args().check:
        for path in changed:
            print(f"{path.name} is out of date with benchmarks/results: make figures", file=sys.stderr)
        return int(bool(changed))
    for path in changed:
        write_text(path, wanted[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
