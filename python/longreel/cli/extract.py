"""`longreel extract`: what the encoders of a system make of a video or of images, as a file."""

from pathlib import Path
from typing import Annotated

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
    Own,
    PresetName,
    System,
    with_options,
)


def extract(
    inputs: Input,
    out: Annotated[Path, typer.Option(help="The feature file, safetensors; appears only when it is whole.")],
    system: System = SYSTEM,
    preset: PresetName = "tiny",
    checkpoint: Checkpoint = None,
    frames: Frames = None,
    own: Own = {},  # noqa: B006, never changed
    json_file: JsonFile = None,
    device: Device = None,
    dtype: Dtype = None,
    chunk: Chunk = None,
) -> None:
    """Write the vision tower's patch features of every frame; `longreel run` takes the file instead of the video."""
    with one_line_errors():
        from longreel.models.setup import named, setup_of
        from longreel.report import run_table
        from longreel.report.lines import json_line

        check_apart(inputs, out=out, json=json_file)
        setup = setup_of(system, preset, checkpoint, device, own, dtype=dtype)
        check_output(json_file)
        check_output(out, ".safetensors")
        console, log = consoles()
        with setup.open(inputs, frames, chunk) as source:
            if source.features is not None:
                raise ValueError(f"{source.features.path}: holds features already")
            model = setup.model(source)
            with setup.writer(out, source, inputs, frames) as writer, progress(log, source.expected) as told:
                record = setup.extract(model, source, writer, progress=told)
        if json_file is not None:
            append(json_file, json_line(record, named(inputs), None))
        run_table.show(record, console)
        shape = [record.frames, setup.preset.tower.patches + source.facts.prefix, setup.preset.tower.width]
        dtype = str(model.dtype).removeprefix("torch.")
        console.print(
            f"features       {out}, {shape} {dtype}, {out.stat().st_size / 2**20:,.0f} MiB",
            markup=False,
            soft_wrap=True,
        )


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(with_options(extract, tower=True))
