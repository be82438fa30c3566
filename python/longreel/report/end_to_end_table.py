"""End-to-end runs as Markdown tables."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from longreel.bench.tables import markdown, seconds, size

Line = dict[str, Any]

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
