"""`longreel bench`: our kernels beside the strongest plain PyTorch, in turn, checked before any ratio."""

from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from longreel.bench import suite
from longreel.bench.cases import BACKWARD, CASES, DTYPES, SIZES, BenchCase, op_names, ops_of
from longreel.bench.figure_table import FigureTable
from longreel.bench.tables import markdown_table, rich_table
from longreel.cli.console import one_line_errors
from longreel.cli.files import check_apart, check_output
from longreel.cli.options import bounded
from longreel.files.foreign import shown
from longreel.files.output import append_line
from longreel.models.registry import SYSTEMS
from longreel.report.compared import compared, comparison_text

Op = Enum("Op", {name: name for name in op_names()}, type=str)  # type: ignore[misc]
Dtype = Enum("Dtype", {name: name for name in DTYPES}, type=str)  # type: ignore[misc]
Backward = Enum("Backward", {name: name for name in BACKWARD}, type=str)  # type: ignore[misc]
System = Enum("System", {name: name for name in SYSTEMS}, type=str)  # type: ignore[misc]
Size = Enum("Size", {name: name for name in SIZES}, type=str)  # type: ignore[misc]
Mode = Enum("Mode", {name: name for name in ("independent", "causal")}, type=str)  # type: ignore[misc]


def bench(
    op: Annotated[list[Op] | None, typer.Option(help="The op; may be repeated.")] = None,
    all_ops: Annotated[bool, typer.Option("--all", help="Every op, dtype and pass.")] = False,
    system: Annotated[System | None, typer.Option(help="The ops that this system calls, at its shapes.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Every op, dtype and pass in under 5 minutes; no peers that compile.")
    ] = False,
    size: Annotated[
        Size | None,
        typer.Option(
            help="hour (default): 3600 frames of 256 x 1408 (attention: 64 of 577 tokens); quick: the same layers on fewer; "
            "small: for a laptop."
        ),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Patches of a real video, a file of `longreel extract`; sets F, N and C.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, callback=bounded, help="Frames F.")] = None,
    patches: Annotated[
        int | None, typer.Option(min=1, callback=bounded, help="Patches of a frame N, a square.")
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, callback=bounded, help="Width of a patch C.")] = None,
    queries: Annotated[
        int | None, typer.Option(min=1, callback=bounded, help="Queries M, shared by all frames.")
    ] = None,
    output_size: Annotated[
        int | None, typer.Option(min=1, callback=bounded, help="Content tokens are output_size x output_size.")
    ] = None,
    vision: Annotated[
        int | None, typer.Option(min=1, callback=bounded, help="Attention: vision tokens of a frame.")
    ] = None,
    voco: Annotated[
        int | None, typer.Option(min=1, callback=bounded, help="Attention: VoCo tokens of a frame.")
    ] = None,
    text: Annotated[
        int | None, typer.Option(min=0, callback=bounded, help="Attention: text tokens after the frames.")
    ] = None,
    heads: Annotated[int | None, typer.Option(min=1, callback=bounded, help="Attention: query heads H.")] = None,
    kv_heads: Annotated[
        int | None, typer.Option(min=1, callback=bounded, help="Attention: key heads; default H.")
    ] = None,
    head_dim: Annotated[int | None, typer.Option(min=1, max=256, help="Attention: head size D.")] = None,
    mode: Annotated[Mode | None, typer.Option(help="Attention: VoCo mode.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, callback=bounded, help="Q-Former: videos, or frames.")] = None,
    keys: Annotated[int | None, typer.Option(min=1, callback=bounded, help="Q-Former: keys of each.")] = None,
    entries: Annotated[int | None, typer.Option(min=1, callback=bounded, help="VST: tokens in memory.")] = None,
    visual: Annotated[int | None, typer.Option(min=1, callback=bounded, help="VST: visual tokens of a window.")] = None,
    ratio: Annotated[int | None, typer.Option(min=1, callback=bounded, help="VST: of these a VST token.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, callback=bounded, help="Scores: tokens of a frame.")] = None,
    dtype: Annotated[
        list[Dtype] | None, typer.Option(help="May be repeated; default bf16, with --all bf16 and fp32.")
    ] = None,
    backward: Annotated[
        list[Backward] | None, typer.Option(help="Gradients computed too; default none, with --all every one.")
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="Ours to measure (reference too); default every kernel.")
    ] = None,
    peer: Annotated[list[str] | None, typer.Option(help="Peers to measure; default every one.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default cuda where there is one.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, callback=bounded, help="CPU threads; default torch's.")] = None,
    repeats: Annotated[int, typer.Option(min=1, callback=bounded, help="Rounds: every variant once a round.")] = 10,
    budget: Annotated[
        float | None,
        typer.Option(help="Seconds for everything; rounds end early after it. Default 600, with --quick 240."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Append JSON lines, one a variant, to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Append Markdown tables to this file.")] = None,
    results: Annotated[Path | None, typer.Option(help="Append JSON lines to <op>.jsonl in this folder.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Measure nothing: which ratios moved from one --json file to another; exit 1 where one fell."
        ),
    ] = None,
) -> None:
    """Measure our ops beside plain PyTorch: every variant checked against float64, then timed in turn."""
    console = Console()
    if compare is not None:
        return _compare(*compare)
    if not (all_ops or op or quick or system):
        raise typer.BadParameter(f"name one with --op ({', '.join(op_names())}), or take --all, --quick or --system")
    every, asked = all_ops or quick or not op, None if system is None else system.value
    if asked is not None and not ops_of(asked):
        raise typer.BadParameter(f"--system {asked}: no benchmark has its shapes")
    if threads is not None:
        torch.set_num_threads(threads)
    chosen = _device(device)
    try:
        check_apart([], json=json, markdown=markdown)
        for path in (path for path in (json, markdown) if path is not None):
            path.parent.mkdir(parents=True, exist_ok=True)
            check_output(path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    ops = [o.value for o in op or []] or (op_names() if asked is None else ops_of(asked))
    for name in ops:
        if asked is not None and asked not in CASES[name].SYSTEMS:
            raise typer.BadParameter(f"--op {name}: {asked} does not call it; it calls {', '.join(ops_of(asked))}")
    options = {
        name: value
        for name, value in {
            "frames": frames, "patches": patches, "width": width, "queries": queries, "output_size": output_size,
            "vision": vision, "voco": voco, "text": text, "heads": heads, "kv_heads": kv_heads or heads,
            "head_dim": head_dim, "mode": None if mode is None else mode.value, "batch": batch, "keys": keys, "entries": entries,
            "visual": visual, "ratio": ratio, "tokens": tokens,
        }.items()
        if value is not None
    }  # fmt: skip
    _refuse_unknown(ops, options)
    dtypes = [DTYPES[d.value] for d in dtype or []] or [DTYPES[d] for d in (("bf16", "fp32") if every else ("bf16",))]
    passes = {b.value for b in backward or []} or (set(BACKWARD) if every else {"none"})
    called = size.value if size is not None else "quick" if quick else "hour"
    todo = [case for case in suite.cases(chosen, called, dtypes, ops, options, asked) if case.backward in passes]
    if features is not None:
        todo = _on_features(todo, features, frames)
    names = {name for case in todo for name in (*case.backends, *case.names)}
    unknown = [name for name in (*(backend or ()), *(peer or ())) if name not in names]
    if todo and unknown:
        raise typer.BadParameter(f"no {shown(unknown[0])} among {', '.join(sorted(names))}")
    if not todo:
        known = "; ".join(f"{name} takes {' or '.join(CASES[name].passes())}" for name in ops)
        raise typer.BadParameter(f"--backward {' '.join(sorted(passes))}: {known}")

    def finished(result: suite.Result) -> None:
        if result.report is None:
            console.print(f"{result.case.op}: {result.why}", style="yellow")
            return
        console.print(rich_table(result.report, result.case.kernels), crop=False)
        if json is not None:
            result.report.write(json)
        if markdown is not None:
            append_line(markdown, markdown_table(result.report, result.case.kernels))

    with one_line_errors():
        with console.status("starting") as status:
            done = suite.run(
                todo,
                budget=(240.0 if quick else 600.0) if budget is None else budget,
                results=results,
                repeats=repeats,
                probed=2**28 if quick else 2**30,
                names=lambda case: _names(case, backend, peer, quick),
                finished=finished,
                progress=status.update,
            )
        if len(done) > 1:
            console.print(_summary(done), crop=False)
    if any(suite.failures(result) for result in done):
        raise typer.Exit(1)


def _device(name: str | None) -> torch.device:
    there = torch.cuda.is_available()
    try:
        chosen = torch.device(name or ("cuda" if there else "cpu"))
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda") or (chosen.type == "cuda" and not there):
        raise typer.BadParameter(f"--device {shown(name)}: this torch measures on cpu{', cuda' * there}")
    return chosen


def _compare(before: Path, after: Path) -> None:
    try:
        found = compared(before, after)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(comparison_text(found))
    if found.worse:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(bench)


def _refuse_unknown(ops: list[str], options: dict[str, object]) -> None:
    """An option that no chosen op has would change nothing."""
    known = {field.name for op in ops for shape in CASES[op].SIZES.values() for field in fields(shape)}
    for name in options:
        if name not in known:
            raise typer.BadParameter(f"--{name.replace('_', '-')} means nothing to {', '.join(ops)}")


def _on_features(todo: list[BenchCase], features: Path, frames: int | None) -> list[BenchCase]:
    try:
        from longreel.bench.feature_case import FeatureCase

        return [FeatureCase.of(case, features, frames) for case in todo]
    except ModuleNotFoundError as error:
        raise typer.BadParameter(f"--features needs {error.name}: pip install 'longreel[video]'") from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _names(case: BenchCase, backends: list[str] | None, peers: list[str] | None, quick: bool) -> list[str]:
    listed = case.quick_names if quick else case.names
    ours = case.kernels if backends is None else backends
    others = [name for name in listed if name not in case.backends] if peers is None else peers
    return [*ours, *others]


# What of `suite.HEADER` fits 80 columns; the rest stands in each case's own table, and so does the reason for an empty row.
_SHOWN = {0: "op", 1: "dtype", 2: "pass", 4: "median", 5: "best peer", 6: "naive"}
_SHORT = {"bfloat16": "bf16", "float32": "fp32", "float16": "fp16"}


def _summary(done: list[suite.Result]) -> FigureTable:
    table = FigureTable(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for column, name in _SHOWN.items():
        table.add_column(name, justify="left" if column < 3 else "right", no_wrap=True)
    for cells in suite.summary(done):
        head = [cells[0], _SHORT.get(cells[1], cells[1]), cells[2].replace("forward + backward", "+ backward")]
        table.add_row(*head, *(["–"] * 3 if len(cells) == 4 else [cells[column] for column in list(_SHOWN)[3:]]))
    return table
