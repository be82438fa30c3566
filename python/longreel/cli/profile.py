"""`longreel profile`: how time and memory of every stage grow with the number of frames."""

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longreel.cli.console import consoles, one_line_errors, one_line_warnings
from longreel.cli.files import append, check_apart, check_output
from longreel.cli.options import (
    QUESTION,
    SYSTEM,
    Checkpoint,
    Chunk,
    Device,
    Dtype,
    Frames,
    Input,
    Own,
    PresetName,
    System,
    bounded,
    with_options,
)
from longreel.models import registry

if TYPE_CHECKING:
    from longreel.models.setup import Setup

_HALVINGS = 4


@dataclass(frozen=True)
class _Sweep:
    """What every run of a sweep has in common; travels to its process."""

    inputs: tuple[Path, ...]
    system: str
    preset: str
    checkpoint: Path | None
    device: str | None
    dtype: str | None
    question: str
    frames: str | None
    options: dict[str, Any]
    compare: bool
    chunk: int | None
    systems: dict[str, str]
    """Those that are registered here."""

    def setup(self) -> "Setup":
        from longreel.models.setup import setup_of

        return setup_of(self.system, self.preset, self.checkpoint, self.device, self.options, dtype=self.dtype)


def profile(
    inputs: Input,
    count: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            callback=bounded,
            help="Frames of a run; may be repeated. Default: all there are, and their halves down to 1/16.",
        ),
    ] = None,
    system: System = SYSTEM,
    preset: PresetName = "tiny",
    checkpoint: Checkpoint = None,
    question: Annotated[str, typer.Option(help="Asked in every run.")] = QUESTION,
    frames: Frames = None,
    own: Own = {},  # noqa: B006, never changed
    compare: Annotated[
        bool, typer.Option("--compare", help="Run the reference path beside ours, for end-to-end ratios.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Append to this file: a line a run, then one with the growth.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw time, shares and memory over frames to this PNG.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    chunk: Chunk = None,
) -> None:
    """Run the first n frames for several n, each in a process of its own, and fit how every stage grows."""
    with one_line_errors():
        from longreel.report import growth as growths

        check_apart(inputs, json=json_file, plot=plot)
        check_output(json_file)
        check_output(plot, ".png", ".svg", ".pdf")
        if plot is not None:
            from longreel.report import growth_picture
        sweep = _Sweep(
            tuple(inputs), system, preset, checkpoint, device, dtype, question, frames, dict(own), compare, chunk,
            dict(registry.SYSTEMS),
        )  # fmt: skip
        counts = _counts(sweep, count)
        console, log = consoles()
        runs: list[dict[str, Any]] = []
        with log.status("starting") as status:
            for n in counts:
                status.update(f"{n:,} frames ({len(runs) + 1} of {len(counts)})")
                runs.append(_alone(sweep, n))
                if json_file is not None:
                    append(json_file, runs[-1])
        growth = growths.Growth.of(runs)
        if json_file is not None:
            append(json_file, growths.json_growth(runs, growth))
        if plot is not None:
            growth_picture.draw(runs, growth, plot)
        growths.show(runs, growth, console)
        if plot is not None:
            console.print(f"picture        {plot}", markup=False, soft_wrap=True)
    if not all(run.get("passed", True) for run in runs):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(with_options(profile))


def _counts(sweep: _Sweep, wanted: list[int] | None) -> list[int]:
    with sweep.setup().open(sweep.inputs, sweep.frames, sweep.chunk) as source:
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


def _alone(sweep: _Sweep, count: int) -> dict[str, Any]:
    """A run in a process of its own, which ends with this one."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, sweep, count).result()
        except BrokenProcessPool:
            raise MemoryError(f"the run of {count:,} frames was killed, as one is that takes all memory") from None
        except BaseException:
            for child in active_children():
                child.terminate()
            raise


def _measure(sweep: _Sweep, count: int) -> dict[str, Any]:
    """One run as a line of JSON; in a process of its own, whose peak memory is this run's alone."""
    from longreel.models.setup import named
    from longreel.parity.agreement import agreement
    from longreel.report.lines import json_line

    registry.SYSTEMS.update(sweep.systems)
    with one_line_warnings():
        setup = sweep.setup()
        prompts = setup.prompts([sweep.question])
        with setup.open(sweep.inputs, sweep.frames, sweep.chunk) as source:
            model = setup.model(source, prompts)
            record = setup.run(model, source, prompts, compare=sweep.compare, frames=count)
    compared = record if sweep.compare else None
    verdict = None if compared is None else agreement(compared, model.dtype)
    return json_line(record, named(sweep.inputs), verdict, compared) | {"command": "profile"}
