"""Reports as text: cells, a rich table for a terminal of 80 columns, a Markdown table for a page."""

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from longreel.bench.report import STEADY, Outcome, Report
from longreel.measure.machine import Record
from longreel.measure.stats import Spread

if TYPE_CHECKING:
    from rich.console import RenderableType

Cells = list[str]

_NONE = "–"
# The part of the machine that others may take in a run that counts.
QUIET = 0.05


def seconds(value: float) -> str:
    """A time in its own unit: `231 ms`, `1.47 s`."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1:
            return f"{_three(value * factor)} {unit}"
    return f"{value * 1e9:.0f} ns"


def size(count: float | None) -> str:
    """Bytes in a binary unit: `11.2 MiB`."""
    if count is None:
        return _NONE
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{_three(count / factor)} {unit}"
    return f"{count:.0f} B"


def rate(value: float, unit: str) -> str:
    """A rate in a decimal unit: `43.1 GB/s`, `2.10 TFLOP/s`."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= factor:
            return f"{_three(value / factor)} {prefix}{unit}"
    return f"{value:.0f} {unit}"


def times(ratio: Spread | None) -> str:
    return _NONE if ratio is None else f"{ratio.median:.2f}x"


def header(report: Report) -> Cells:
    return [
        "variant",
        "median",
        "quartiles",
        f"x {report.baseline}",
        "extra mem",
        "roof",
        *["sparse"] * (report.roof.dense is not None),
        "error",
    ]


def row(report: Report, outcome: Outcome) -> Cells:
    """The cells of one variant; one that was not timed has none but its name and its error."""
    error = _NONE if outcome.verdict is None else f"{outcome.verdict.error:.2f}"
    time, share = report.time(outcome.variant), report.share(outcome.variant)
    if time is None or share is None:
        return [outcome.variant, *[_NONE] * (len(header(report)) - 2), error]
    sparse = report.sparsity_share(outcome.variant)
    return [
        outcome.variant,
        seconds(time.median),
        _range(time),
        times(report.speedup(outcome.variant, report.baseline)) + "~" * report.noisy(outcome.variant),
        size(outcome.peak.extra if outcome.peak else None),
        f"{100 * share:.0f} %",
        *[f"{100 * (sparse or 0):.0f} %"] * (report.roof.dense is not None),
        error,
    ]


def title(facts: Record) -> str:
    """What was computed: `compress_frames bf16, forward`, with the shape."""
    return (
        " ".join(str(value) for key, value in facts.items() if key in ("op", "dtype", "pass"))
        + f"   {facts.get('shape', '')}"
    )


def verdicts(report: Report, ours: Sequence[str]) -> list[str]:
    """One sentence for each of `ours` that was timed: its speed-up over every other variant, with quartiles."""
    lines = []
    for name in (o.variant for o in report.outcomes if o.variant in ours):
        found = [(o.variant, report.speedup(name, o.variant)) for o in report.outcomes if o.variant not in ours]
        parts = [
            f"{r.median:.2f}x ({r.low:.2f}–{r.high:.2f}{', noisy' * (r.noise > STEADY)}) over {other}"
            for other, r in found
            if r is not None
        ]
        if parts:
            lines.append(f"{name}: " + ", ".join(parts))
    return lines


def warning(report: Report) -> str | None:
    """Contention hits forms of many short parallel steps hardest, and differently in every round: no ratio stands then."""
    if report.others is None or report.others < QUIET:
        return None
    return f"NOT A QUIET MACHINE: other processes took {100 * report.others:.0f} % of it; these figures do not stand"


def notes(report: Report) -> list[str]:
    """What the rows are or why they are empty, and what the columns mean on this machine."""
    lines = [f"{o.variant}: {o.why or o.note}" for o in report.outcomes if o.why or o.note]
    unsteady = {o.variant: report.noise(o.variant) or 0.0 for o in report.outcomes if report.noisy(o.variant)}
    if unsteady:
        said = ", ".join(f"{name} {100 * noise:.0f} %" for name, noise in unsteady.items())
        lines.append(
            f"~ noisy: the halves of the rounds disagree, or single rounds scatter, so that another run may differ by {said}"
        )
    m, roof = report.machine, report.roof
    where = f"{m['device']}, {m['cpu_isa']}, threads {m['threads']}, torch {m['torch']}, {m['git'] or m['longreel']}"
    lines.append(f"{where}, {m['date']}" + (f", load {m['load']} before" if m["load"] is not None else ""))
    lines.append(
        f"roof: {rate(roof.bandwidth, 'B/s')} ({roof.bandwidth_by}), {rate(roof.matrix, 'FLOP/s')} ({roof.matrix_by});"
        f" this work is bound by {'memory' if roof.bound(report.work) == 'memory' else 'the matrix rate'}:"
        f" {seconds(roof.seconds(report.work))} at best"
    )
    if bound := roof.sparsity_seconds(report.work):
        lines.append(
            f"sparse: {seconds(bound)}, the visible pairs alone at dense attention's {rate(roof.dense or 0, 'FLOP/s')} (SDPA)"
        )
    lines += _inputs_and_outputs(report.facts)
    if any((report.share(o.variant) or 0) > 1 for o in report.outcomes):
        lines.append("more than 100 % of the memory roof: the inputs stayed in a cache")
    rounds = max((len(o.samples) for o in report.outcomes), default=0)
    how = next((o.peak.how for o in report.outcomes if o.peak), "not measured")
    lines.append(
        f"medians of {rounds} rounds; {rate(report.work.flops, 'FLOP')} and {size(report.work.bytes)} of work;"
        f" extra mem: beyond inputs and outputs, {how};"
        " error: worst of max and rms error over its budget (ours at most 1)"
    )
    return lines


def _inputs_and_outputs(facts: Record) -> list[str]:
    """Where a call's inputs come from and its results go."""
    sets, turn, cache = (facts.get(key) for key in ("input_sets", "bytes_a_turn", "last_level_cache"))
    lines = [f"results: memory {facts['allocated']}"] if facts.get("allocated") else []
    if isinstance(sets, int) and isinstance(turn, int) and isinstance(cache, int):
        past = "past" if turn > cache else "NOT past"
        lines.append(
            f"inputs: {sets} in turn, {size(turn)} from one to the same again, {past} the {size(cache)} of cache"
        )
    return lines


def rich_table(report: Report, ours: Sequence[str] = ()) -> "RenderableType":
    """The table with its verdicts and notes, for `rich.print`; rows of `ours` are set off."""
    from rich import box
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from longreel.bench.figure_table import FigureTable

    table = FigureTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title(report.facts))
    for i, name in enumerate(header(report)):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for outcome in report.outcomes:
        style = "dim" if outcome.why else "bold green" if outcome.variant in ours else None
        table.add_row(*row(report, outcome), style=style)
    warned = [Text(line, style="bold yellow") for line in [warning(report)] if line]
    said = [Text(line, style="bold") for line in verdicts(report, ours)]
    return Group(table, *warned, *said, Padding(Text("\n".join(notes(report)), style="dim"), (0, 0, 1, 0)))


def markdown_table(report: Report, ours: Sequence[str] = ()) -> str:
    """The same as Markdown, ending in a newline."""
    rows = [[f"**{c}**" if c != _NONE and o.variant in ours else c for c in row(report, o)] for o in report.outcomes]
    lines = [f"### {title(report.facts)}", "", *markdown(header(report), rows), ""]
    lines += [f"**{said}**\n" for said in [warning(report)] if said]
    lines += [f"**{line}**\n" for line in verdicts(report, ours)]
    return "\n".join([*lines, *(f"- {line}" for line in notes(report))]) + "\n"


def markdown(head: Cells, rows: Sequence[Cells], left: Container[int] = (0,)) -> list[str]:
    """Lines of a Markdown table; the columns in `left` to the left, the others to the right."""
    rule = ["---" if i in left else "---:" for i in range(len(head))]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def _range(time: Spread) -> str:
    low, high = seconds(time.low), seconds(time.high)
    return f"{low.split()[0] if low.split()[1] == high.split()[1] else low}–{high}"


def _three(value: float) -> str:
    """Three significant digits, no exponent."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def text_table(head: Cells, rows: Sequence[Cells]) -> str:
    """Aligned columns, the first four to the left; of a row shorter than the head the last cell runs on."""
    full = [cells for cells in rows if len(cells) == len(head)]
    widths = [max(len(cells[i]) for cells in (head, *full)) for i in range(len(head))]
    short = [cells for cells in rows if len(cells) < len(head)]
    widths = [max(w, *(len(c[i]) for c in short if i < len(c) - 1), 0) for i, w in enumerate(widths)]

    def line(cells: Cells) -> str:
        padded = [c.ljust(w) if i < 4 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=False))]
        return "  ".join(padded).rstrip()

    return "\n".join([line(head), "  ".join("-" * w for w in widths), *(line(cells) for cells in rows)])
