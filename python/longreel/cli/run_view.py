"""A run on the terminal and as a line of JSON: the total and each stage's share of it first."""

import hashlib
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from longreel.bench.check import ErrorSum, Verdict
from longreel.measure import machine
from longreel.models.record import EXACT, OURS, REFERENCE, Record
from longreel.testing.budget import FLOORS, Errors, allowed

_BAR = 8
_NO_ANSWER = "No answer, random weights: the ids repeat from run to run and mean nothing."
_NO_VOCABULARY = "No answer, the checkpoint has no tokenizer: these are ids of questions read as bytes."
LABELS = {
    "decode": "decode (not hidden by computing)",
    "read": "read features",
    "tower": "vision tower",
    "write": "write features",
    "load": "read kept rows",
    "keep": "write kept rows",
    "query": "Q-Former (text queries)",
    "compress": "compression",
    "see": "vision stage",
    "language": "language model",
}
# The stages of longreel's own ops, named with the backend that ran them.
_OPS = ("compress", "see")


def agreement(record: Record, dtype: torch.dtype) -> Verdict:
    """Ours against float64, tokens and logits, with the reference path as the yardstick of the error budget.

    The budget's floor is that of one op; errors of `record.steps` ops one after the other add up like a random walk.
    """
    verdict, walk, floor = Verdict(0.0, None), record.steps**0.5, FLOORS[dtype]
    for name in ("tokens", "logits"):
        ours, yardstick = (_errors(record, name, path) for path in (OURS, REFERENCE))
        limit = allowed(yardstick, dtype)
        for kind, value, most in (
            ("max", ours.max_rel, max(limit.max_rel, walk * floor.max_rel)),
            ("rms", ours.rms_rel, max(limit.rms_rel, walk * floor.rms_rel)),
        ):
            if verdict.worst is None or value / most > verdict.error:
                verdict = Verdict(value / most, f"{name} has {kind} error {value:.1e}, allowed {most:.1e}")
    return verdict


def _errors(record: Record, name: str, path: str) -> Errors:
    sums = ErrorSum()
    if name == "tokens":
        sums.add(record.visual[path], record.visual[EXACT])
    else:
        for logits, truth in zip(record.logits[path], record.logits[EXACT], strict=True):
            sums.add(logits, truth)
    return sums.errors


def checksum(record: Record, question: int) -> str:
    """Eight hex digits of the ids chosen for a question."""
    return hashlib.sha256(str(record.ids[record.paths[0]][question]).encode()).hexdigest()[:8]


def show(record: Record, console: Console, verdict: Verdict | None = None) -> None:
    """The total and the shares, the end-to-end ratio above those of the stages, tokens and peak memory, ids."""
    show_compared(record, console, verdict)
    if record.rows:
        every = record.tokens_bytes / record.tokens * record.rows
        console.print(
            f"keys, values   of {record.tokens:,} rows kept, of {record.rows:,}: {1 - record.tokens / record.rows:.2%} less,"
            f" {_size(record.tokens_bytes)} instead of {_size(every)}"
        )
    elif record.questions:
        console.print(f"tokens kept    {record.tokens:,} a question, of {record.patches:,}")
    waited, rates = record.until_first_id(), record.id_rate[record.paths[0]]
    if waited is not None:
        after = f", then {rates[0]:.1f} a second" if rates else ""
        console.print(f"first token    after {waited:.2f} s{after}")
    for index, question in enumerate(record.questions):
        took = f"  ({record.answer_seconds[index]:.2f} s)" if record.answer_seconds else ""
        console.print(f"question {index + 1}     {question}{took}", markup=False, soft_wrap=True)
        if record.answers:
            console.print(f"  {record.answers[index]}", markup=False, soft_wrap=True)
        else:
            console.print(
                f"  ids {record.ids[record.paths[0]][index]}, checksum {checksum(record, index)}", markup=False
            )
    if record.questions and not record.answers:
        console.print(_NO_ANSWER if record.weights.startswith("random") else _NO_VOCABULARY)


def show_compared(record: Record, console: Console, verdict: Verdict | None) -> None:
    """What paths are compared in: seconds, agreement, peak memory."""
    compared = verdict is not None
    title = f"{frames_of(record)} in {record.total():.1f} s"
    if compared:
        title += f", {ratio(record.total(REFERENCE), record.total())} the reference path's speed end to end"
    elif record.paths == (REFERENCE,):
        title += ", reference path"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    heads = ["", "seconds", "ms a frame", "share"] + ["reference", "ratio"] * compared
    for head in heads:
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    table.add_column("", width=_BAR)
    table.add_row(
        "total", *_cells(record, record.total(), record.total(REFERENCE), compared), style="bold", end_section=True
    )
    for name in record.seconds:
        cells = _cells(record, record.stage(name), record.stage(name, REFERENCE), compared and _differs(record, name))
        if compared and not _differs(record, name):
            cells[3:3] = ["–" if OURS in record.seconds[name] else "same code", "–"]
        label = f"{LABELS[name]} ({record.backend} backend)" if name in _OPS else LABELS[name]
        table.add_row(label, *cells, style="green" if _differs(record, name) else "")
    console.print(table)
    if verdict is not None:
        found = f"yes, tokens and logits at {verdict.error:.2f} of the error budget"
        if verdict.why:
            found = f"[red]NO: {verdict.why}[/]"
        same = "the same ids" if record.ids[OURS] == record.ids[REFERENCE] else "[yellow]other ids[/]"
        console.print(f"same numbers   {found}, {same}")
    console.print("peak memory    " + "; ".join(_peaks(record, path) for path in record.paths))


def _size(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.2f} MiB"


def _peaks(record: Record, path: str) -> str:
    """The peak, and the one of the first quarter: whether memory grows with the length."""
    quarter = [(frames, peaks[path]) for frames, peaks in record.memory if frames <= record.frames / 4]
    early = f" ({max(peak for _, peak in quarter) / 2**20:,.0f} up to frame {quarter[-1][0]:,})" if quarter else ""
    return f"{path} {record.peak(path) / 2**20:,.0f} MiB{early}"


def frames_of(record: Record) -> str:
    return f"{record.frames:,} frame{'s' * (record.frames != 1)}"


def ratio(reference: float, ours: float) -> str:
    return f"{reference / ours:.3f} x" if ours else "–"


def _differs(record: Record, stage: str) -> bool:
    return REFERENCE in record.seconds[stage]


def _cells(record: Record, ours: float, reference: float, compared: bool) -> list[str]:
    share = ours / record.total()
    cells = [f"{ours:.2f}", f"{1e3 * ours / max(record.frames, 1):.2f}", f"{share:.1%}"]
    if compared:
        cells += [f"{reference:.2f}", ratio(reference, ours)]
    return [*cells, "█" * round(_BAR * share)]


def json_record(record: Record, source: str, verdict: Verdict | None, compared: Record | None = None) -> dict[str, Any]:
    """One flat line of JSON; seconds, bytes. `compared`: what `verdict` is of; where that is another, shorter run, its line
    stands under "compared"."""
    if compared is not None and compared is not record:
        part = json_record(compared, source, verdict, compared)
        passed = {name: part[name] for name in ("error_over_budget", "passed")}
        return json_record(record, source, None) | passed | {"compared": part}
    paths = record.paths
    line: dict[str, Any] = {
        "command": "run" if record.questions else "extract",
        "system": record.system,
        "preset": record.preset,
        "weights": record.weights,
        "source": source,
        "frames": record.frames,
        "patches": record.patches,
        "tokens": record.tokens,
        "tokens_bytes": record.tokens_bytes,
        "rows": record.rows,
        "startup_s": record.startup,
        "total_s": {path: record.total(path) for path in paths},
        "stages_s": {path: {name: record.stage(name, path) for name in record.seconds} for path in paths},
        "peak_memory_bytes": {path: record.peak(path) for path in paths},
        "first_token_s": {path: record.until_first_id(path) for path in paths},
        "tokens_per_s": {path: rates[0] if (rates := record.id_rate[path]) else None for path in paths},
        "memory_by_frames": [[frames, *(peaks.get(path) for path in paths)] for frames, peaks in record.memory],
        "backend": record.backend,
        "questions": [
            {
                "question": question,
                "ids": record.ids[paths[0]][index],
                "checksum": checksum(record, index),
                "answer": record.answers[index] if record.answers else None,
                "seconds": record.answer_seconds[index] if record.answer_seconds else None,
            }
            for index, question in enumerate(record.questions)
        ],
        **machine.describe(record.device),
    }
    if verdict is not None:
        line["end_to_end_ratio"] = record.total(REFERENCE) / record.total()
        line["stage_ratios"] = {
            name: record.stage(name, REFERENCE) / record.stage(name)
            for name in record.seconds
            if _differs(record, name)
        }
        line["error_over_budget"] = verdict.error
        line["passed"] = verdict.why is None
    return line
