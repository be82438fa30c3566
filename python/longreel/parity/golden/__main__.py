"""Replays golden files and prints a line a case; exit 1 if one fails or is unknown."""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from longreel.parity.golden.files import GoldenError, find
from longreel.parity.golden.replay import Replayed, replay

DTYPES = ("float32", "float16", "bfloat16")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m longreel.parity.golden",
        description="Replay golden files through longreel and compare with the float64 truth in them.",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a golden file (NAME.json) or a folder of them"
    )
    parser.add_argument("--backend", help="backend of every op; default: the one that longreel chooses")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="dtype of weights and inputs (default: %(default)s)"
    )
    parser.add_argument(
        "--only", action="extend", nargs="+", default=[], metavar="GROUPS",
        help="patterns of file names without suffix, e.g. 'llama_vid_token_generation*'; several, or separated by commas",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    only = [pattern for given in options.only for pattern in given.split(",") if pattern]
    try:
        files = find(options.paths, only)
        verdicts = [v for file in files for v in replay(file, options.backend, getattr(torch, options.dtype))]
    except GoldenError as error:
        print(f"golden: {error}", file=sys.stderr)
        return 1
    wide = None if sys.stdout.isatty() else 200
    Console(width=wide).print(_table(verdicts))
    failed = sum(not v.passed for v in verdicts)
    place = f"backend {options.backend or 'chosen by longreel'}, {options.dtype}"
    print(f"{len(verdicts) - failed} of {len(verdicts)} cases hold ({place})")
    return 1 if failed else 0


def _table(verdicts: list[Replayed]) -> Table:
    """A line a case; error and budget are those of the quantity nearest to its budget, or over it."""
    table = Table("file", "case", "quantity", box=None, pad_edge=False)
    for title in ("max_rel", "budget", "rms_rel", "budget"):
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for verdict in verdicts:
        worst = verdict.worst
        figures = ["", "", "", ""]
        if worst is not None and worst.error is not None and worst.budget is not None:
            error, budget = worst.error, worst.budget
            figures = [f"{x:.1e}" for x in (error.max_rel, budget.max_rel, error.rms_rel, budget.rms_rel)]
        word = "ok" if verdict.passed else f"{'UNKNOWN' if verdict.unknown else 'FAILS'}: {verdict.reason}"
        table.add_row(verdict.file, verdict.case, worst.name if worst is not None else "", *figures, word)
    return table


if __name__ == "__main__":
    sys.exit(main())
