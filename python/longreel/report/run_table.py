"""A run on the terminal: the total and each stage's share of it first."""

from rich import box
from rich.console import Console

from longreel.bench.check import Verdict
from longreel.bench.figure_table import FigureTable
from longreel.models.record import OURS, REFERENCE, RunRecord
from longreel.report.lines import checksum, differs
from longreel.report.stages import stage

_BAR = 6
_NO_ANSWER = "No answer, random weights: the ids repeat from run to run and mean nothing."
_NO_VOCABULARY = "No answer, the checkpoint has no tokenizer: these are ids of questions read as bytes."


def show(record: RunRecord, console: Console, verdict: Verdict | None = None) -> None:
    """The total and the shares, the end-to-end ratio above those of the stages, tokens and peak memory, ids."""
    show_compared(record, console, verdict)
    if record.rows:
        every = record.tokens_bytes / record.tokens * record.rows
        console.print(
            f"keys, values   of {record.tokens:,} tokens cached, of {record.rows:,}: {1 - record.tokens / record.rows:.2%} less,"
            f" {_size(record.tokens_bytes)} instead of {_size(every)}"
        )
    elif record.questions:
        # Where every question's own seconds were noted, nothing else depends on it.
        whose = "for all questions" if record.answer_seconds else "a question"
        console.print(f"tokens cached  {record.tokens:,} {whose}, of {record.patches:,}")
    ingested = record.ingest_rate()
    if ingested is not None and record.questions:
        console.print(f"ingested       {ingested:,.1f} frames a second, before the language model is asked")
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


def show_compared(record: RunRecord, console: Console, verdict: Verdict | None) -> None:
    """What paths are compared in: seconds, agreement, peak memory."""
    compared = verdict is not None
    title = f"{frames_of(record)} in {record.total():.1f} s, {record.dtype}"
    if compared:
        title += f", {ratio(record.total(REFERENCE), record.total())} the reference path's speed end to end"
    elif record.paths == (REFERENCE,):
        title += ", reference path"
    table = FigureTable(box=box.SIMPLE_HEAD, title=title, title_style="bold")
    heads = ["", "seconds", "CPU s", "ms/frame", "share"] + ["reference", "ratio"] * compared
    for head in heads:
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    table.add_column("", width=_BAR)
    table.add_row("total", *_cells(record, None, compared), style="bold", end_section=True)
    for name in record.stages:
        cells = _cells(record, name, compared and differs(record, name))
        if compared and not differs(record, name):
            cells[4:4] = ["–" if OURS in record.seconds.get(name, ()) else "same code", "–"]
        part = stage(record.system, name)
        label = f"{part.label} ({record.backend} backend)" if part.ours else part.label
        table.add_row(label, *cells, style="green" if differs(record, name) else "")
    console.print(table, crop=False)
    if verdict is not None:
        found = f"yes, tokens and logits at {verdict.error:.2f} of the error budget"
        if verdict.why:
            found = f"[red]NO: {verdict.why}[/]"
        same = "the same ids" if record.ids[OURS] == record.ids[REFERENCE] else "[yellow]other ids[/]"
        console.print(f"same numbers   {found}, {same}")
        console.print(elapsed(record), soft_wrap=True)
    console.print(cpu(record), soft_wrap=True)
    console.print("peak memory    " + "; ".join(_peaks(record, path) for path in record.paths))


def elapsed(record: RunRecord) -> str:
    """Where the seconds of a comparison went: the stages of both paths, and what stands beside them."""
    shared = {name for name in record.seconds if not differs(record, name)}
    parts = {"stages": record.total(), "reference path's own": sum(
        record.stage(name, REFERENCE) for name in record.seconds if name not in shared
    ), **record.aside}  # fmt: skip
    return f"elapsed        {record.elapsed:.1f} s: " + ", ".join(f"{name} {s:.1f}" for name, s in parts.items())


def cpu(record: RunRecord) -> str:
    """What the process computed from its start on, and where it went; the stages above are the first of it."""
    parts = {"stages": record.total_cpu()}
    if len(record.paths) > 1:
        parts["reference path's own"] = sum(record.ledger.spent.get((name, REFERENCE), 0.0) for name in record.stages)
    parts |= record.aside_cpu | {"before the run": record.ledger.before}
    whole = record.ledger.before + record.ledger.process
    return f"CPU            {whole:.1f} s: " + ", ".join(f"{name} {s:.1f}" for name, s in parts.items())


def _size(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.2f} MiB"


def _peaks(record: RunRecord, path: str) -> str:
    """The peak, and the one of the first quarter: whether memory grows with the length."""
    quarter = [(frames, peaks[path]) for frames, peaks in record.memory if frames <= record.frames / 4]
    early = f" ({max(peak for _, peak in quarter) / 2**20:,.0f} up to frame {quarter[-1][0]:,})" if quarter else ""
    return f"{path} {record.peak(path) / 2**20:,.0f} MiB{early}"


def frames_of(record: RunRecord) -> str:
    return f"{record.frames:,} frame{'s' * (record.frames != 1)}"


def ratio(reference: float, ours: float) -> str:
    return f"{reference / ours:.3f} x" if ours else "–"


def _cells(record: RunRecord, name: str | None, compared: bool) -> list[str]:
    """Of a stage, None: of all. One that runs in threads beside the others has no seconds of its own."""
    ours, spent = (record.total(), record.total_cpu()) if name is None else (record.stage(name), record.cpu(name))
    share = ours / record.total()
    cells = [f"{ours:.2f}", f"{spent:.2f}", f"{1e3 * ours / max(record.frames, 1):.2f}", f"{share:.1%}"]
    if name is not None and name not in record.seconds:
        cells = ["–", cells[1], "–", "–"]
    if compared:
        reference = record.total(REFERENCE) if name is None else record.stage(name, REFERENCE)
        cells += [f"{reference:.2f}", ratio(reference, ours)]
    return [*cells, "█" * round(_BAR * share)]
