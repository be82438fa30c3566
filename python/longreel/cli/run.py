"""`longreel run` and `longreel extract`: a video, images or features through a system, from end to end."""

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from longreel.backends import BackendError

if TYPE_CHECKING:
    from longreel.data import FeatureStream, FrameStream
    from longreel.models.llama_vid import Preset

QUESTION = "What happens in this video?"
SYSTEMS = ("llama-vid",)
_MISSING = "needs packages that are not installed ({}): pip install 'longreel[video]'"

Input = Annotated[
    list[Path], typer.Argument(help="A video, one or several images, or a file made by `longreel extract`.")
]
System = Annotated[str, typer.Option(help=f"One of: {', '.join(SYSTEMS)}.")]
PresetName = Annotated[str, typer.Option("--preset", help="tiny: random weights, an hour on two cores.")]
Frames = Annotated[str, typer.Option(help="Which frames of a video: fps:1, uniform:128 or fps:1,max=128.")]
Chunk = Annotated[int | None, typer.Option(min=1, help="Frames at a time; default: the preset's.")]
Json = Annotated[Path | None, typer.Option(help="Append the figures to this file, as one line of JSON.")]


def run(
    inputs: Input,
    system: System = SYSTEMS[0],
    preset: PresetName = "tiny",
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
    equation: Annotated[
        str, typer.Option(help="released: keys and a scale, as the code; paper: its equation 1, without.")
    ] = "released",
    compare: Annotated[
        bool, typer.Option("--compare", help="Run the reference path too, check it, and show ratios.")
    ] = False,
    features: Annotated[
        Path | None, typer.Option(help="Keep the patch features here: a later run on this file decodes nothing.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Append the figures to this file, as a line of JSON.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw time by stage and memory over frames to this PNG.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="Backend of longreel's ops; default: the best that runs here.")
    ] = None,
    chunk: Chunk = None,
) -> None:
    """Decode, see, compress, answer: a video end to end, streamed, with the time of every stage."""
    with _one_line_errors():
        from longreel.cli import run_view
        from longreel.models.llama_vid import LlamaVid, byte_ids, stream

        size = _preset(system, preset)
        questions = question or [QUESTION]
        ids, _ = byte_ids(questions)
        if ids.shape[1] > size.qformer.positions:
            raise ValueError(
                f"a question has {ids.shape[1]} bytes, preset {size.name} reads at most {size.qformer.positions}"
            )
        _check_output(json_file)
        _check_output(plot, ".png", ".svg", ".pdf")
        _check_output(features, ".safetensors")
        if plot is not None:
            from longreel.cli import run_picture
        console, log = _consoles()
        with _open(inputs, frames, size, chunk) as source:
            compress = _compress(source, size, tokens_per_frame, token_budget, ids.shape[1])
            model = LlamaVid(size, compress=compress, equation=equation, backend=backend)  # type: ignore[arg-type]
            with contextlib.ExitStack() as open_files:
                writer = None
                if features is not None:
                    writer = open_files.enter_context(
                        stream.feature_writer(str(features), size, _about(source, inputs, frames))
                    )
                progress = open_files.enter_context(_progress(log, source.expected))
                record = stream.run(model, source, questions, compare=compare, writer=writer, progress=progress)
        verdict = run_view.agreement(record, getattr(torch, size.dtype)) if compare else None
        if json_file is not None:
            _append(json_file, run_view.json_record(record, _named(inputs), verdict))
        run_view.show(record, console, verdict)
        if plot is not None:
            run_picture.draw(record, plot)
            console.print(f"picture        {plot}", markup=False, soft_wrap=True)
    if verdict is not None and verdict.why is not None:
        raise typer.Exit(1)


def extract(
    inputs: Input,
    out: Annotated[Path, typer.Option(help="The feature file, safetensors; appears only when it is whole.")],
    system: System = SYSTEMS[0],
    preset: PresetName = "tiny",
    frames: Frames = "fps:1",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Append the figures to this file, as a line of JSON.")
    ] = None,
    chunk: Chunk = None,
) -> None:
    """Write the vision tower's patch features of every frame; `longreel run` takes the file instead of the video."""
    with _one_line_errors():
        from longreel.cli import run_view
        from longreel.data import FeatureStream
        from longreel.models.llama_vid import LlamaVid, stream

        size = _preset(system, preset)
        _check_output(json_file)
        _check_output(out, ".safetensors")
        console, log = _consoles()
        with _open(inputs, frames, size, chunk) as source:
            if isinstance(source, FeatureStream):
                raise ValueError(f"{source.path}: holds features already")
            with (
                stream.feature_writer(str(out), size, _about(source, inputs, frames)) as writer,
                _progress(log, source.expected) as progress,
            ):
                record = stream.extract(LlamaVid(size), source, writer, progress=progress)
        run_view.show(record, console)
        shape = [record.frames, size.tower.tokens, size.tower.width]
        console.print(
            f"features       {out}, {shape} {size.dtype}, {out.stat().st_size / 2**20:,.0f} MiB",
            markup=False,
            soft_wrap=True,
        )
        if json_file is not None:
            _append(json_file, run_view.json_record(record, _named(inputs), None))


def register(app: typer.Typer) -> None:
    """Add both commands to the application."""
    app.command()(run)
    app.command()(extract)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """What the user can mend: one line on stderr and exit code 2. Damage that was passed over: one line, and on."""
    shown = warnings.showwarning

    def one_line(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        if category.__name__ == "MediaWarning":
            print(f"warning: {message}", file=sys.stderr)
        else:
            shown(message, category, *rest, **named)

    warnings.showwarning = one_line
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("longreel"):
            raise
        _stop(_MISSING.format(error.name))
    except (ValueError, BackendError, OSError) as error:
        _stop(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        warnings.showwarning = shown


def _stop(reason: str) -> None:
    print("longreel: " + " ".join(reason.split()), file=sys.stderr)
    raise typer.Exit(2) from None


def _preset(system: str, name: str) -> "Preset":
    from longreel.models.llama_vid import PRESETS

    if system not in SYSTEMS:
        raise ValueError(f"--system {system!r}: there is {', '.join(SYSTEMS)}")
    if name not in PRESETS:
        raise ValueError(f"--preset {name!r}: {system} has {', '.join(PRESETS)}")
    return PRESETS[name]


def _open(inputs: list[Path], frames: str, size: "Preset", chunk: int | None) -> "FrameStream | FeatureStream":
    from longreel.data import FeatureStream, is_feature_file
    from longreel.data import frames as open_frames
    from longreel.models.llama_vid.stream import check_features

    if len(inputs) == 1 and is_feature_file(inputs[0]):
        features = FeatureStream(inputs[0], chunk=chunk or size.chunk)
        check_features(features, size)
        return features
    return open_frames(inputs, frames, size=size.tower.image, chunk=chunk or size.chunk)


def _compress(
    source: "FrameStream | FeatureStream", size: "Preset", wanted: str | None, budget: int | None, question: int
) -> str | None:
    from longreel.models.llama_vid import choose_compress
    from longreel.models.llama_vid.stream import ANSWER, is_still

    if wanted is None:
        return None if is_still(source) else size.compress
    if wanted != "auto" and not wanted.isdecimal():
        raise ValueError(f"--tokens-per-frame {wanted!r}: give a number, or auto")
    side = size.tower.image // size.tower.patch
    if wanted == "auto" and is_still(source):
        return None
    left = size.language.positions - 1 - question - ANSWER
    return choose_compress(
        "auto" if wanted == "auto" else int(wanted), side=side, frames=source.expected, budget=min(budget or left, left)
    )


def _about(source: "FrameStream | FeatureStream", inputs: list[Path], frames: str) -> dict[str, str]:
    from longreel.models.llama_vid.stream import is_still

    kind = "images" if is_still(source) else "video"
    return {"source": _named(inputs), "kind": kind, "frames": "all" if kind == "images" else frames}


def _named(inputs: list[Path]) -> str:
    return ", ".join(path.name for path in inputs)


def _check_output(path: Path | None, *suffixes: str) -> None:
    """Before an hour of work, not after it."""
    if path is None:
        return
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"{path}: its name must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path}: cannot be written there")


def _consoles() -> tuple[Console, Console]:
    wide = None if sys.stdout.isatty() else 100
    return Console(width=wide, highlight=False), Console(stderr=True)


@contextlib.contextmanager
def _progress(log: Console, expected: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, nothing where that is not a terminal."""
    bar = Progress(
        TextColumn("[bold]frames"), BarColumn(None), MofNCompleteColumn(), TextColumn("elapsed"), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=log, disable=not log.is_terminal, transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("frames", total=expected)
        yield lambda done: bar.update(task, completed=done)


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
