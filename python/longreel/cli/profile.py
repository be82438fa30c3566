"""`longreel profile`: how time and memory of every stage grow with the number of frames."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import typer

from longreel.cli.session import (
    SYSTEMS,
    Checkpoint,
    Chunk,
    Device,
    Frames,
    Input,
    Mode,
    Positions,
    PresetName,
    System,
    TokensPerFrame,
    Voco,
    append,
    check_apart,
    check_output,
    consoles,
    named,
    one_line_errors,
    one_line_warnings,
)
from longreel.cli.systems import setup_of

QUESTION = "What happens in this video?"
_HALVINGS = 4


@dataclass(frozen=True)
class _Sweep:
    """What every run of a sweep has in common; travels to its process."""

    inputs: tuple[Path, ...]
    system: str
    preset: str
    checkpoint: Path | None
    device: str | None
    question: str
    frames: str | None
    options: dict[str, Any]
    compare: bool
    chunk: int | None


def profile(
    inputs: Input,
    count: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Frames of a run; may be repeated. Default: all there are, and their halves down to 1/16."
        ),
    ] = None,
    system: System = SYSTEMS[0],
    preset: PresetName = "tiny",
    checkpoint: Checkpoint = None,
    question: Annotated[str, typer.Option(help="Asked in every run.")] = QUESTION,
    frames: Frames = None,
    tokens_per_frame: TokensPerFrame = None,
    voco: Voco = None,
    mode: Mode = None,
    positions: Positions = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Run the reference path beside ours, for end-to-end ratios.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Append to this file: a line a run, then one with the growth.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw time, shares and memory over frames to this PNG.")] = None,
    device: Device = None,
    chunk: Chunk = None,
) -> None:
    """Run the first n frames for several n, each in a process of its own, and fit how every stage grows."""
    with one_line_errors():
        from longreel.cli import profile_view

        check_apart(inputs, json=json_file, plot=plot)
        check_output(json_file)
        check_output(plot, ".png", ".svg", ".pdf")
        if plot is not None:
            from longreel.cli import profile_picture
        own = {"tokens_per_frame": tokens_per_frame, "voco": voco, "mode": mode, "positions": positions}
        sweep = _Sweep(tuple(inputs), system, preset, checkpoint, device, question, frames, own, compare, chunk)
        counts = _counts(sweep, count)
        console, log = consoles()
        runs: list[dict[str, Any]] = []
        with log.status("starting") as status:
            for n in counts:
                status.update(f"{n:,} frames ({len(runs) + 1} of {len(counts)})")
                with ProcessPoolExecutor(1, get_context("spawn")) as alone:
                    runs.append(alone.submit(_measure, sweep, n).result())
                if json_file is not None:
                    append(json_file, runs[-1])
        growth = profile_view.Growth.of(runs)
        if json_file is not None:
            append(json_file, profile_view.json_growth(runs, growth))
        profile_view.show(runs, growth, console)
        if plot is not None:
            profile_picture.draw(runs, growth, plot)
            console.print(f"picture        {plot}", markup=False, soft_wrap=True)
    if not all(run.get("passed", True) for run in runs):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(profile)


def _counts(sweep: _Sweep, wanted: list[int] | None) -> list[int]:
    setup = setup_of(sweep.system, sweep.preset, sweep.checkpoint, sweep.device, sweep.options)
    source, _ = setup.open(list(sweep.inputs), sweep.frames, sweep.chunk)
    with source:
        there = source.expected
    if wanted is None:
        if there is None:
            raise ValueError("the input does not say how many frames it has: give --count")
        wanted = [there >> halvings for halvings in range(_HALVINGS + 1) if there >> halvings]
    counts = sorted(set(wanted))
    if there is not None and counts[-1] > there:
        raise ValueError(f"--count {counts[-1]}: the input has {there} frames")
    if len(counts) < 2:
        raise ValueError("growth needs at least two numbers of frames: give --count twice")
    return counts


def _measure(sweep: _Sweep, count: int) -> dict[str, Any]:
    """One run as a line of JSON; in a process of its own, whose peak memory is this run's alone."""
    from longreel.cli import run_view

    with one_line_warnings():
        setup = setup_of(sweep.system, sweep.preset, sweep.checkpoint, sweep.device, sweep.options)
        questions = setup.questions([sweep.question], None)
        source, prefix = setup.open(list(sweep.inputs), sweep.frames, sweep.chunk)
        with source:
            model = setup.model(prefix, source, questions)
            record = setup.run(model, source, questions, compare=sweep.compare, frames=count)
    record.weights = setup.weights
    compared = record if sweep.compare else None
    verdict = None if compared is None else run_view.agreement(compared, model.dtype)
    return run_view.json_record(record, named(list(sweep.inputs)), verdict, compared) | {"command": "profile"}
