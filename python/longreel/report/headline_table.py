"""The papers' headline settings as a table, from the lines that benchmarks/headlines.py writes."""

from collections.abc import Sequence

from longreel.bench.tables import rate, size
from longreel.report.result_lines import Line

HEAD = ["setting", "frames", "tokens", "positions", "FLOPs", "keys, values", "peak memory", "fits", "the paper"]
LEFT = 1


def rows(lines: Sequence[Line]) -> list[list[str]]:
    """The cells under HEAD, a row a setting; of several lines of one the last."""
    newest = {line["headline"]: line for line in lines if line["by"] == "formula"}
    return [_row(line) for line in newest.values()]


def notes(lines: Sequence[Line]) -> list[str]:
    """What differs from the papers, and what was measured."""
    differs = dict.fromkeys(f"{line['system']}: {line['differs']}" for line in lines if line["by"] == "formula")
    measured = {line["headline"]: line["said"] for line in lines if line["by"] == "measured"}
    return [*differs, *(f"measured, {name}: {said}" for name, said in measured.items())]


def _row(line: Line) -> list[str]:
    most = "any number of frames" if line["most"] is None else f"up to {line['most']:,} frames"
    fits = "–" if line["cap_gib"] is None else f"{'yes' if line['fits'] else 'no'}, {most} in {line['cap_gib']:g} GiB"
    return [
        line["headline"], f"{line['frames']:,}", f"{line['tokens']:,}", f"{line['positions']:,} of {line['limit']:,}",
        rate(line["flops"], "FLOP"), size(line["cache_bytes"]), size(line["peak_bytes"]), fits, line["paper"],
    ]  # fmt: skip
