"""`longreel profile`: how time and memory of every stage grow with the number of frames."""

import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longreel.cli.console import consoles, one_line_errors, one_line_warnings
from longreel.cli.files import append, check_apart, check_output
from longreel.cli.options import (
    MOST,
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
from longreel.files.foreign import shown
from longreel.models import registry
from longreel.models.record import OURS

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
    question: str | None
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
        list[str] | None,
        typer.Option(
            help="Frames of a run, or several: 64:3600:x2 doubles from 64 on up to 3600 itself, 100:900:+200 adds. May be"
            " repeated. Default: all there are, and their halves down to 1/16."
        ),
    ] = None,
    system: System = SYSTEM,
    preset: PresetName = "tiny",
    checkpoint: Checkpoint = None,
    question: Annotated[str | None, typer.Option(help="Asked in every run.")] = None,
    frames: Frames = None,
    own: Own = {},  # noqa: B006, never changed
    compare: Annotated[
        bool, typer.Option("--compare", help="Run the reference path beside ours, for end-to-end ratios.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Append to this file: a line a run, then one with the growth.")
    ] = None,
    repeat: Annotated[
        int, typer.Option(min=1, callback=bounded, help="Runs of each count; the one of the median CPU time is shown.")
    ] = 1,
    trace: Annotated[
        Path | None,
        typer.Option(help="Run the first count once more under torch's profiler, and write its trace to this .json."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw time, shares and memory over frames to this PNG.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    chunk: Chunk = None,
) -> None:
    """Run the first n frames for several n, each in a process of its own, and fit how every stage grows."""
    with one_line_errors():
        from longreel.report import growth as growths

        check_apart(inputs, json=json_file, plot=plot, trace=trace)
        check_output(json_file)
        check_output(plot, ".png", ".svg", ".pdf")
        check_output(trace, ".json")
        wanted = None if count is None else [n for each in count for n in counts_of(each)]
        if plot is not None:
            from longreel.report import growth_picture
        sweep = _Sweep(
            tuple(inputs), system, preset, checkpoint, device, dtype, question, frames, dict(own), compare, chunk,
            dict(registry.SYSTEMS),
        )  # fmt: skip
        counts = _counts(sweep, wanted)
        console, log = consoles()
        runs: list[dict[str, Any]] = []
        with log.status("starting") as status:
            for n in counts:
                tried: list[dict[str, Any]] = []
                for turn in range(repeat):
                    again = f", run {turn + 1} of {repeat}" if repeat > 1 else ""
                    status.update(f"{n:,} frames ({len(runs) + 1} of {len(counts)}{again})")
                    tried.append(_alone(sweep, n))
                    if json_file is not None:
                        append(json_file, tried[-1])
                runs.append(sorted(tried, key=lambda run: run["cpu_s"][OURS])[(repeat - 1) // 2])
            if trace is not None:
                status.update(f"{counts[0]:,} frames under the profiler")
                _alone(sweep, counts[0], trace)
        growth = growths.Growth.of(runs)
        if json_file is not None:
            append(json_file, growths.json_growth(runs, growth))
        if plot is not None:
            growth_picture.draw(runs, growth, plot)
        growths.show(runs, growth, console)
        if plot is not None:
            console.print(f"picture        {plot}", markup=False, soft_wrap=True)
        if trace is not None:
            console.print(f"trace          {trace}, of {counts[0]:,} frames", markup=False, soft_wrap=True)
    if not all(run.get("passed", True) for run in runs):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(with_options(profile))


def counts_of(text: str) -> list[int]:
    """ "64", "64:3600:x2" or "100:900:+200" -> the counts, the last one among them.

    Raises:
        ValueError: it is none of these.
    """
    found = re.fullmatch(r"(\d+)(?::(\d+):([x+])(\d+))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if found is None or not 1 <= first <= last <= MOST or (found[3] and int(found[4]) < 1 + (found[3] == "x")):
        raise ValueError(f"--count {shown(text)}: must be a number from 1 on, or several as 64:3600:x2 or 100:900:+200")
    counts = [first]
    while found[3] and counts[-1] < last:
        step = int(found[4])
        counts.append(min(last, counts[-1] * step if found[3] == "x" else counts[-1] + step))
    return counts


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


def _alone(sweep: _Sweep, count: int, trace: Path | None = None) -> dict[str, Any]:
    """A run in a process of its own, which ends with this one."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, sweep, count, trace).result()
        except BrokenProcessPool:
            raise MemoryError(f"the run of {count:,} frames was killed, as one is that takes all memory") from None
        except BaseException:
            for child in active_children():
                child.terminate()
            raise


def _measure(sweep: _Sweep, count: int, trace: Path | None = None) -> dict[str, Any]:
    """One run as a line of JSON; in a process of its own, whose peak memory is this run's alone. trace: where the profiler's
    trace of it goes."""
    from longreel.models.setup import named
    from longreel.parity.agreement import agreement
    from longreel.report.lines import json_line

    registry.SYSTEMS.update(sweep.systems)
    with one_line_warnings():
        setup = sweep.setup()
        prompts = setup.prompts(sweep.question and [sweep.question])
        with setup.open(sweep.inputs, sweep.frames, sweep.chunk) as source:
            model = setup.model(source, prompts)
            with _traced(trace):
                record = setup.run(model, source, prompts, compare=sweep.compare, frames=count)
    compared = record if sweep.compare else None
    verdict = None if compared is None else agreement(compared, model.dtype)
    return json_line(record, named(sweep.inputs), verdict, compared) | {"command": "profile"}


@contextmanager
def _traced(path: Path | None) -> Iterator[None]:
    """What runs inside as a trace that Perfetto and chrome://tracing open; stages are ranges of it."""
    if path is None:
        yield
        return
    from torch import profiler

    from longreel.files.output import OutputFile

    with profiler.profile() as recorded:
        yield
    with OutputFile(path) as out, TemporaryDirectory() as folder:
        made = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(made))
        out.file.write(made.read_bytes())
