"""`longreel run` and `longreel extract`: a video, images or features through a system, from end to end."""

import contextlib
from pathlib import Path
from typing import Annotated

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
    Mode,
    Positions,
    PresetName,
    System,
    TokensPerFrame,
    Voco,
    about,
    append,
    cap_memory,
    check_apart,
    check_output,
    consoles,
    named,
    one_line_errors,
    progress,
)
from longreel.cli.systems import setup_of
from longreel.models.record import OURS, REFERENCE

QUESTION = "What happens in this video?"
_JsonFile = Annotated[Path | None, typer.Option("--json", help="Append the figures to this file, as a line of JSON.")]


def run(
    inputs: Input,
    system: System = SYSTEMS[0],
    preset: PresetName = "tiny",
    checkpoint: Checkpoint = None,
    question: Annotated[list[str] | None, typer.Option(help="May be repeated: all are answered in one pass.")] = None,
    frames: Frames = None,
    tokens_per_frame: TokensPerFrame = None,
    token_budget: Annotated[
        int | None,
        typer.Option(
            min=2, help="llama-vid, with auto: tokens for the video; default: what the language model has left."
        ),
    ] = None,
    text_decoder: Annotated[
        str | None,
        typer.Option(
            help="llama-vid: qformer (default), learned queries read a frame; bert, the question's own tokens do."
        ),
    ] = None,
    equation: Annotated[
        str | None,
        typer.Option(
            help="llama-vid: released (default), keys and a scale as the code; paper, its equation 1, without."
        ),
    ] = None,
    voco: Voco = None,
    mode: Mode = None,
    positions: Positions = None,
    drop_cls: DropCls = False,
    answer_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens at most. Default: 64, and 8 ids from random weights.")
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
    keep: Annotated[
        Path | None,
        typer.Option(
            help="voco-llama: keep the VoCo tokens' keys and values here: a later run on this file sees nothing."
        ),
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
        from longreel.models.feed import expected_frames, feature_writer

        check_apart(inputs, features=features, keep=keep, json=json_file, plot=plot)
        own = {
            "tokens_per_frame": tokens_per_frame, "token_budget": token_budget, "text_decoder": text_decoder,
            "equation": equation, "drop_cls": drop_cls, "voco": voco, "mode": mode, "positions": positions,
            "keep": keep, "backend": backend,
        }  # fmt: skip
        setup = setup_of(system, preset, checkpoint, device, own)
        cap_memory(setup.device, memory_cap)
        _check_ops(ops, compare=compare, plot=plot is not None, keep=keep is not None)
        questions = setup.questions(question or [QUESTION], answer_tokens)
        check_output(json_file)
        check_output(plot, ".png", ".svg", ".pdf")
        check_output(features, ".safetensors")
        check_output(keep, ".safetensors")
        if plot is not None:
            from longreel.cli import run_picture
        console, log = consoles()
        source, prefix = setup.open(inputs, frames, chunk)
        with source, contextlib.ExitStack() as open_files:
            model, expected = setup.model(prefix, source, questions), expected_frames(source, count)
            part = setup.comparable(model, expected, questions) if compare else None
            writer = None
            if features is not None:
                writer = open_files.enter_context(
                    feature_writer(
                        str(features), setup.name, setup.preset, about(source, inputs, frames), num_prefix_tokens=prefix,
                        weights=setup.weights, device=setup.device,
                    )
                )  # fmt: skip
            told = open_files.enter_context(progress(log, expected))
            whole = compare and part is None
            kept = {} if keep is None else {"kept": keep}
            record = setup.run(
                model, source, questions, ops=ops, compare=whole, frames=count, writer=writer, progress=told, **kept
            )
        compared = record if whole else None
        if part is not None:
            again, _ = setup.open(inputs, frames, chunk)
            with again, progress(log, part.frames) as told:
                compared = setup.run(model, again, questions, compare=True, frames=part.frames, progress=told)
        record.weights = setup.weights
        verdict = None if compared is None else run_view.agreement(compared, model.dtype)
        if json_file is not None:
            line = run_view.json_record(record, named(inputs), verdict, compared)
            append(json_file, line | {"memory_cap_bytes": memory_cap and round(memory_cap * 2**30)})
        run_view.show(record, console, verdict if whole else None)
        if part is not None and compared is not None and verdict is not None:
            console.print(f"compared       on the first {run_view.frames_of(compared)}: {part.why}")
            run_view.show_compared(compared, console, verdict)
        if plot is not None:
            run_picture.draw(record, plot)
            console.print(f"picture        {plot}", markup=False, soft_wrap=True)
    if verdict is not None and verdict.why is not None:
        raise typer.Exit(1)


def _check_ops(ops: str, **ours: bool) -> None:
    """`ours`: options that need longreel's path, and whether they were given."""
    if ops not in (OURS, REFERENCE):
        raise ValueError(f"--ops {ops!r}: there is {OURS}, {REFERENCE}")
    for name in (name for name, given in ours.items() if given and ops == REFERENCE):
        raise ValueError(f"--ops {REFERENCE}: runs that path alone; --{name} needs longreel's")


def extract(
    inputs: Input,
    out: Annotated[Path, typer.Option(help="The feature file, safetensors; appears only when it is whole.")],
    system: System = SYSTEMS[0],
    preset: PresetName = "tiny",
    checkpoint: Checkpoint = None,
    frames: Frames = None,
    drop_cls: DropCls = False,
    json_file: _JsonFile = None,
    device: Device = None,
    chunk: Chunk = None,
) -> None:
    """Write the vision tower's patch features of every frame; `longreel run` takes the file instead of the video."""
    with one_line_errors():
        from longreel.cli import run_view
        from longreel.data import FeatureStream
        from longreel.models import feed

        check_apart(inputs, out=out, json=json_file)
        setup = setup_of(system, preset, checkpoint, device, {"drop_cls": drop_cls})
        check_output(json_file)
        check_output(out, ".safetensors")
        console, log = consoles()
        source, prefix = setup.open(inputs, frames, chunk)
        with source:
            if isinstance(source, FeatureStream):
                raise ValueError(f"{source.path}: holds features already")
            with (
                feed.feature_writer(
                    str(out), setup.name, setup.preset, about(source, inputs, frames), num_prefix_tokens=prefix,
                    weights=setup.weights, device=setup.device,
                ) as writer,
                progress(log, source.expected) as told,
            ):  # fmt: skip
                model = setup.model(prefix, source)
                record = feed.extract(setup.name, model, source, writer, progress=told)
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
