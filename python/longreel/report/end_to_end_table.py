"""End-to-end runs as Markdown tables."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from longreel.bench.tables import markdown, seconds, size

Line = dict[str, Any]

_STAGES = {"query": "Q-Former", "compress": "compression", "vision": "vision stage", "language": "language model"}
# As files from before 0.1.0 have it.
_STAGES |= {"see": _STAGES["vision"]}
HEAD = ["input", "card", "path", "share of each stage", "frames", "total", "ratio", "first token", "tokens/s", "peak"]


def runs_section(lines: Sequence[Line]) -> list[str]:
    """End-to-end runs in Markdown, a table a system."""
    out = ["### End to end", ""]
    for name, rows, shells, _ in runs_tables(lines):
        out += [f"{name}, random weights:", "", *markdown(HEAD, rows, range(4)), "", "```", *shells, "```", ""]
    return out


def runs_tables(lines: Sequence[Line]) -> Iterator[tuple[str, list[list[str]], list[str], list[Line]]]:
    """Of every system: its name, the rows under HEAD (what ran; what did not fit or was not reached, by name), the commands,
    and what went through as {"label", "system", "total", "stages"}."""
    newest = {tuple(line["case"].items()): line for line in lines}
    for name, group in groupby(sorted(newest.values(), key=_system), key=_system):
        chosen = list(group)
        through = [line for line in chosen if line["outcome"] == "ok"]
        yield (
            name, [_run_row(line, chosen) for line in chosen], [line["shell"] for line in through],
            [_bar(line) for line in through],
        )  # fmt: skip


def _bar(line: Line) -> Line:
    case, path = line["case"], _path(line)
    cap = "" if case["memory_cap_gib"] is None else f", {case['memory_cap_gib']:g} GiB"
    label = f"{case['frames']:,} frames, {case['input']}, {path}{' at once' * case['at_once']}{cap}"
    return {"label": label, "system": case["system"], "total": line["total_s"][path], "stages": line["stages_s"][path]}


def _path(line: Line) -> str:
    return "reference" if line["case"]["ops"] == "reference" else "longreel"


def _system(line: Line) -> str:
    return f"{line['case']['system']}, preset {line['case']['preset']}"


def _run_row(line: Line, others: Sequence[Line]) -> list[str]:
    case, cap = line["case"], line["case"]["memory_cap_gib"]
    head = [case["input"], "whole" if cap is None else f"{cap:g} GiB", case["ops"] + " at once" * case["at_once"]]
    if line["outcome"] != "ok":
        return [*head, line["outcome"], f"{case['frames']:,}", *["–"] * 5]
    path = _path(line)
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
