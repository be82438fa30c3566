"""`longreel run` and `longreel extract`: a video, images or features through a system, from end to end."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longreel.cli.session import (
    SYSTEMS,
    Checkpoint,
    Chunk,
    Device,
    DropCls,
    Frames,
    Input,
    MemoryCap,
    PresetName,
    Setup,
    System,
    about,
    append,
    cap_memory,
    check_output,
    consoles,
    content_tokens,
    named,
    one_line_errors,
    progress,
)

if TYPE_CHECKING:
    from longreel.models.llama_vid import Ops

QUESTION = "What happens in this video?"
_JsonFile = Annotated[Path | None, typer.Option("--json", help="Append the figures to this file, as a line of JSON.")]


def run(
    inputs: Input,
    system: System = SYSTEMS[0],
    preset: PresetName = "tiny",
    checkpoint: Checkpoint = None,
    question: Annotated[list[str] | None, typer.Option(help="May be repeated: all are answered in one pass.")] = None,
    frames: Frames = "fps:1",
    tokens_per_frame: Annotated[
        str | None,
        typer.Option(help="Content tokens: a number, or auto. Default: the preset's for video, all for images."),
    ] = None,
    token_budget: Annotated[
        int | None,
        typer.Option(min=2, help="With auto: tokens for the video; default: what the language model has left."),
    ] = None,
    text_decoder: Annotated[
        str, typer.Option(help="qformer: learned queries read a frame; bert: the question's own tokens do.")
    ] = "qformer",
    equation: Annotated[
        str, typer.Option(help="released: keys and a scale, as the code; paper: its equation 1, without.")
    ] = "released",
    drop_cls: DropCls = False,
    answer_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens at most. Default: 64, and 8 ids from random weights.")
    ] = None,
    ops: Annotated[
        str, typer.Option(help="longreel, or reference: the released order of operations alone, in its place.")
    ] = "longreel",
    compare: Annotated[
        bool, typer.Option("--compare", help="Run the reference path too, check it, and show ratios.")
    ] = False,
    features: Annotated[
        Path | None, typer.Option(help="Keep the patch features here: a later run on this file decodes nothing.")
    ] = None,
    json_file: _JsonFile = None,
    plot: Annotated[Path | None, typer.Option(help="Draw time by stage and memory over frames to this PNG.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="Backend of longreel's ops; default: the best that runs here.")
    ] = None,
    device: Device = None,
    memory_cap: MemoryCap = None,
    chunk: Chunk = None,
    count: Annotated[int | None, typer.Option(min=1, help="The first frames only, so many at most.")] = None,
) -> None:
    """Decode, see, compress, answer: a video end to end, streamed, with the time of every stage."""
    with one_line_errors():
        from longreel.cli import run_view
        from longreel.models.llama_vid import stream

        setup = Setup.of(system, preset, checkpoint, device)
        cap_memory(setup.device, memory_cap)
        path = _path(ops, compare, plot)
        questions = setup.questions(question or [QUESTION], answer_tokens)
        check_output(json_file)
        check_output(plot, ".png", ".svg", ".pdf")
        check_output(features, ".safetensors")
        if plot is not None:
            from longreel.cli import run_picture
        console, log = consoles()
        source, prefix = setup.open(inputs, frames, chunk, drop_cls)
        with source, contextlib.ExitStack() as open_files:
            compress = content_tokens(source, setup.preset, tokens_per_frame, token_budget, questions.longest)
            model = setup.model(
                compress=compress, num_prefix_tokens=prefix, text_decoder=text_decoder, equation=equation,
                backend=backend,
            )  # fmt: skip
            writer = None
            if features is not None:
                writer = open_files.enter_context(
                    stream.feature_writer(
                        str(features), setup.preset, about(source, inputs, frames), num_prefix_tokens=prefix,
                        weights=setup.weights, device=setup.device,
                    )
                )  # fmt: skip
            told = open_files.enter_context(progress(log, stream.least(source.expected, count)))
            record = stream.run(
                model, source, questions, ops=path, compare=compare, frames=count, writer=writer, progress=told
            )
        record.weights = setup.weights
        verdict = run_view.agreement(record, model.dtype) if compare else None
        if json_file is not None:
            line = run_view.json_record(record, named(inputs), verdict)
            append(json_file, line | {"memory_cap_bytes": memory_cap and round(memory_cap * 2**30)})
        run_view.show(record, console, verdict)
        if plot is not None:
            run_picture.draw(record, plot)
            console.print(f"picture        {plot}", markup=False, soft_wrap=True)
    if verdict is not None and verdict.why is not None:
        raise typer.Exit(1)


def _path(ops: str, compare: bool, plot: Path | None) -> "Ops":
    if ops not in ("longreel", "reference"):
        raise ValueError(f"--ops {ops!r}: there is longreel, reference")
    if ops == "reference" and (compare or plot is not None):
        raise ValueError("--ops reference: runs that path alone; --compare and --plot show longreel's")
    return ops  # type: ignore[return-value]


def extract(
    inputs: Input,
    out: Annotated[Path, typer.Option(help="The feature file, safetensors; appears only when it is whole.")],
    system: System = SYSTEMS[0],
    preset: PresetName = "tiny",
    checkpoint: Checkpoint = None,
    frames: Frames = "fps:1",
    drop_cls: DropCls = False,
    json_file: _JsonFile = None,
    device: Device = None,
    chunk: Chunk = None,
) -> None:
    """Write the vision tower's patch features of every frame; `longreel run` takes the file instead of the video."""
    with one_line_errors():
        from longreel.cli import run_view
        from longreel.data import FeatureStream
        from longreel.models.llama_vid import stream

        setup = Setup.of(system, preset, checkpoint, device)
        check_output(json_file)
        check_output(out, ".safetensors")
        console, log = consoles()
        source, prefix = setup.open(inputs, frames, chunk, drop_cls)
        with source:
            if isinstance(source, FeatureStream):
                raise ValueError(f"{source.path}: holds features already")
            with (
                stream.feature_writer(
                    str(out), setup.preset, about(source, inputs, frames), num_prefix_tokens=prefix,
                    weights=setup.weights, device=setup.device,
                ) as writer,
                progress(log, source.expected) as told,
            ):  # fmt: skip
                model = setup.model(num_prefix_tokens=prefix)
                record = stream.extract(model, source, writer, progress=told)
        record.weights = setup.weights
        run_view.show(record, console)
        shape = [record.frames, setup.preset.tower.patches + prefix, setup.preset.tower.width]
        dtype = str(model.dtype).removeprefix("torch.")
        console.print(
            f"features       {out}, {shape} {dtype}, {out.stat().st_size / 2**20:,.0f} MiB",
            markup=False,
            soft_wrap=True,
        )
        if json_file is not None:
            append(json_file, run_view.json_record(record, named(inputs), None))


def register(app: typer.Typer) -> None:
    """Add both commands to the application."""
    app.command()(run)
    app.command()(extract)
