"""`longreel run`: a video, images, features or a saved memory through a system, from end to end."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from longreel.cli.console import consoles, one_line_errors, progress
from longreel.cli.files import append, check_apart, check_output
from longreel.cli.options import (
    SYSTEM,
    Checkpoint,
    Chunk,
    Device,
    Dtype,
    Frames,
    Input,
    JsonFile,
    MemoryCap,
    Own,
    PresetName,
    SaveMemory,
    System,
    bounded,
    own_device,
    with_options,
)
from longreel.models.record import OURS, REFERENCE
from longreel.ranks import of_environment

if TYPE_CHECKING:
    from longreel.models.record import Ops


def run(
    inputs: Input,
    system: System = SYSTEM,
    preset: PresetName = "tiny",
    checkpoint: Checkpoint = None,
    question: Annotated[list[str] | None, typer.Option(help="May be repeated: all are answered in one pass.")] = None,
    frames: Frames = None,
    own: Own = {},  # noqa: B006, never changed
    answer_tokens: Annotated[
        int | None,
        typer.Option(min=1, callback=bounded, help="Tokens at most. Default: 64, and 8 ids from random weights."),
    ] = None,
    ops: Annotated[
        str, typer.Option(help="longreel, or reference: the released order of operations alone, in its place.")
    ] = OURS,
    compare: Annotated[
        bool, typer.Option("--compare", help="Run the reference path too, check it, and show ratios.")
    ] = False,
    features: Annotated[
        Path | None, typer.Option(help="Keep the patch features here: a later run on this file decodes nothing.")
    ] = None,
    save_memory: SaveMemory = None,
    json_file: JsonFile = None,
    plot: Annotated[Path | None, typer.Option(help="Draw time by stage and memory over frames to this PNG.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="Backend of longreel's ops; default: the best that runs here.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    memory_cap: MemoryCap = None,
    chunk: Chunk = None,
    count: Annotated[
        int | None, typer.Option(min=1, callback=bounded, help="The first frames only, so many at most.")
    ] = None,
) -> None:
    """Decode, encode, compress, answer: a video end to end, streamed, with the time of every stage.

    Under torchrun the processes share its frames, and the first one answers.
    """
    with one_line_errors(), contextlib.ExitStack() as shared:
        from longreel.models.inputs import expected_frames
        from longreel.models.setup import named, setup_of
        from longreel.parity.agreement import agreement
        from longreel.report import run_table
        from longreel.report.lines import json_line

        rank = of_environment()
        processes = None
        if rank.count > 1:
            from longreel.cli.together import together

            processes = shared.enter_context(together(rank))
            for option, given in (("compare", compare), ("features", features is not None)):
                if given:
                    raise ValueError(f"--{option}: in one process alone, these are {rank.count}")
        saving = {"save-memory": save_memory}
        check_apart(inputs, features=features, **saving, json=json_file, plot=plot)
        setup = setup_of(
            system,
            preset,
            checkpoint,
            own_device(device, rank),
            own,
            backend=backend,
            save=save_memory is not None,
            dtype=dtype,
        )
        _cap_memory(setup.device, memory_cap)
        path = _path(ops, compare=compare, plot=plot is not None, **{"save-memory": save_memory is not None})
        prompts = setup.prompts(question or None, answer_tokens)
        check_output(json_file)
        check_output(plot, ".png", ".svg", ".pdf")
        check_output(features, ".safetensors")
        check_output(save_memory, ".safetensors")
        if plot is not None:
            from longreel.report import run_picture
        console, log = consoles()
        with setup.open(inputs, frames, chunk) as source, contextlib.ExitStack() as open_files:
            model, expected = setup.model(source, prompts), expected_frames(source, count)
            if processes is not None and rank.index:
                setup.give(model, source, prompts, processes, ops=path, frames=count)
                return
            part = setup.comparable(model, prompts, expected) if compare else None
            writer = None
            if features is not None:
                writer = open_files.enter_context(setup.writer(features, source, inputs, frames))
            told = open_files.enter_context(progress(log, expected))
            whole = compare and part is None
            record = setup.run(
                model,
                source,
                prompts,
                ops=path,
                compare=whole,
                frames=count,
                writer=writer,
                save=save_memory,
                processes=processes,
                progress=told if processes is None else _both(told, processes.sign),
            )
        compared = record if whole else None
        if part is not None:
            with setup.open(inputs, frames, chunk) as again, progress(log, part.frames) as told:
                compared = setup.run(model, again, prompts, compare=True, frames=part.frames, progress=told)
        verdict = None if compared is None else agreement(compared, model.dtype)
        if json_file is not None:
            line: dict[str, Any] = json_line(record, named(inputs), verdict, compared)
            more = {"memory_cap_bytes": memory_cap and round(memory_cap * 2**30), "processes": rank.count}
            append(json_file, line | more)
        if plot is not None:
            run_picture.draw(record, plot)
        run_table.show(record, console, verdict if whole else None)
        if rank.count > 1:
            console.print(f"processes      {rank.count}; seconds, CPU seconds and memory are those of the first one")
        if part is not None and compared is not None and verdict is not None:
            console.print(f"compared       on the first {run_table.frames_of(compared)}: {part.why}")
            run_table.show_compared(compared, console, verdict)
        if plot is not None:
            console.print(f"picture        {plot}", markup=False, soft_wrap=True)
    if verdict is not None and verdict.why is not None:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(with_options(run))


def _both(told: Callable[[int], None], sign: Callable[[], None]) -> Callable[[int], None]:
    def progressed(done: int) -> None:
        told(done)
        sign()

    return progressed


def _path(ops: str, **ours: bool) -> "Ops":
    """`ours`: options that need longreel's path, and whether they were given."""
    if ops == OURS:
        return "longreel"
    if ops != REFERENCE:
        raise ValueError(f"--ops {ops!r}: there is {OURS}, {REFERENCE}")
    for name in (name for name, given in ours.items() if given):
        raise ValueError(f"--ops {REFERENCE}: runs that path alone; --{name} needs longreel's")
    return "reference"


def _cap_memory(device: torch.device, gib: float | None) -> None:
    """Let torch's allocator take at most `gib` GiB of the GPU; ValueError without a GPU, or for more than it has."""
    if gib is None:
        return
    if device.type != "cuda":
        raise ValueError(f"--memory-cap {gib:g}: caps the memory of a GPU, this run is on {device.type}")
    index = torch.cuda.current_device() if device.index is None else device.index
    there = torch.cuda.get_device_properties(index).total_memory
    if gib * 2**30 > there:
        raise ValueError(f"--memory-cap {gib:g}: this GPU has {there / 2**30:.1f} GiB")
    torch.cuda.set_per_process_memory_fraction(gib * 2**30 / there, index)
