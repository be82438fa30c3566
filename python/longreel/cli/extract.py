"""`longreel extract`: what the encoders of a system make of a video or of images, as a file; of a folder of videos, as many."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longreel.cli.console import consoles, one_line_errors, progress
from longreel.cli.ends import end_if_told
from longreel.cli.files import append, check_apart, check_output
from longreel.cli.options import (
    SYSTEM,
    Checkpoint,
    Chunk,
    Device,
    Dtype,
    Frames,
    JsonFile,
    Own,
    PresetName,
    System,
    own_device,
    with_options,
)
from longreel.ranks import Rank, of_environment

if TYPE_CHECKING:
    from longreel.models.folder import Share
    from longreel.models.setup import Setup

# The exit code where everything was done but for files that cannot be read.
SOME_BROKEN = 1


def extract(
    inputs: Annotated[list[Path], typer.Argument(help="A video, one or several images, or a folder of videos.")],
    out: Annotated[
        Path,
        typer.Option(
            help="The feature file, safetensors; appears only when it is whole. Of a folder of videos: the folder of their files."
        ),
    ],
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
    """Write the vision tower's patch features of every frame; `longreel run` takes the file instead of the video.

    Of a folder's videos each process takes a share (RANK and WORLD_SIZE, as torchrun sets them), and leaves out what is there.
    """
    with one_line_errors():
        from longreel.models.setup import named, setup_of
        from longreel.report import run_table
        from longreel.report.lines import json_line

        rank = of_environment()
        check_apart(inputs, out=out, json=json_file)
        check_output(json_file)
        if len(inputs) == 1 and inputs[0].is_dir():
            setup = setup_of(system, preset, checkpoint, own_device(device, rank), own, dtype=dtype)
            _folder(setup, inputs[0], out, rank, json_file, frames, chunk)
            return
        if rank.count > 1:
            raise ValueError(f"{rank}: a video is extracted by one process alone, only a folder's are shared out")
        setup = setup_of(system, preset, checkpoint, device, own, dtype=dtype)
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


def _folder(
    setup: "Setup", folder: Path, out: Path, rank: Rank, json_file: Path | None, frames: str | None, chunk: int | None
) -> None:
    from longreel.models.folder import Folder
    from longreel.report.lines import json_line

    if (out.exists() and not out.is_dir()) or out.suffix == ".safetensors":
        raise ValueError(f"--out {out}: features of a folder's videos go into a folder")
    _, log = consoles()
    videos = Folder(setup, folder, out, rank, frames)
    with progress(log, len(videos.share), "videos", show=rank.count == 1) as told:
        done = list[Path]()

        def one_more(video: Path, record: Any) -> None:
            done.append(video)
            told(len(done))
            if record is not None and json_file is not None:
                append(json_file, json_line(record, video.name, None))

        share = videos.extract(chunk, one_more)
    _show(share, rank, out)
    for why in share.broken.values():
        print(f"longreel: {why}", file=sys.stderr)
    if share.broken:
        if rank.restarts:
            # Were this process to end with an error now, all would be started again.
            videos.settle(end_if_told)
        raise typer.Exit(SOME_BROKEN)


def _show(share: "Share", rank: Rank, out: Path) -> None:
    """One line, written at once, so that those of several processes stand apart."""
    who = f"{rank}: " if rank.count > 1 else ""
    parts = [f"{len(share.written)} written ({sum(share.written.values()):,} frames)"]
    parts += [f"{len(share.there)} were there"] * bool(share.there)
    parts += [f"{len(share.broken)} cannot be read"] * bool(share.broken)
    sys.stdout.write(f"{who}{len(share.videos)} videos, {', '.join(parts)}: {out}\n")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(with_options(extract, tower=True))
