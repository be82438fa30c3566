"""What run, extract and profile share: a system's sizes, weights and inputs from the command line, and one-line errors."""

import contextlib
import json
import os
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from longreel.backends import BackendError

if TYPE_CHECKING:
    from longreel.models.feed import Source
    from longreel.models.questions import Prompts
    from longreel.models.record import Record

SYSTEMS = ("llama-vid", "voco-llama")
# Ids of an answer, and of what random weights say in its place.
ANSWER, IDS = 64, 8
FRAMES = "fps:1"
# The exit code of a run that does not fit in memory, a GPU's or what a dense mask may take.
NO_ROOM = 3
_MISSING = "needs packages that are not installed ({}): pip install 'longreel[video]'"

Input = Annotated[
    list[Path],
    typer.Argument(
        help="A video, one or several images, a file of features (`longreel extract`), or for voco-llama one of kept"
        " rows (`longreel run --keep`)."
    ),
]
System = Annotated[str, typer.Option(help=f"One of: {', '.join(SYSTEMS)}.")]
PresetName = Annotated[
    str,
    typer.Option("--preset", help="tiny (an hour on two cores), small, 7b (llama-vid also 7b-336): random weights."),
]
Checkpoint = Annotated[
    Path | None, typer.Option(help="A folder of released weights; its config.json sets the preset's sizes.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; default: the GPU where there is one.")]
MemoryCap = Annotated[
    float | None, typer.Option(min=0.0, help="GiB that torch may take of the GPU's memory, as on a smaller card.")
]
Frames = Annotated[
    str | None, typer.Option(help=f"Which frames of a video: fps:1, uniform:128 or fps:1,max=128. Default: {FRAMES}.")
]
Chunk = Annotated[int | None, typer.Option(min=1, help="Frames at a time; default: the preset's.")]
DropCls = Annotated[
    bool,
    typer.Option("--drop-cls", help="llama-vid: drop the tower's CLS token before everything, as for long video."),
]
TokensPerFrame = Annotated[
    str | None,
    typer.Option(
        help="llama-vid's content tokens: a number, or auto. Default: the preset's for video, all for images."
    ),
]
Voco = Annotated[int | None, typer.Option(min=1, help="voco-llama: VoCo tokens of a frame; default 1.")]
Mode = Annotated[
    str | None,
    typer.Option(
        help="voco-llama: a frame sees itself only (independent, the default), or earlier VoCo tokens (causal)."
    ),
]
Positions = Annotated[
    str | None, typer.Option(help="voco-llama: compact (the default) or absolute, which counts every row.")
]


@dataclass(frozen=True)
class Setup(ABC):
    """A system's sizes, its options, and where its weights come from; made before anything is decoded."""

    preset: Any
    """Of the system's own kind; a `longreel.models.sizes.Preset`."""
    checkpoint: Path | None
    device: torch.device
    options: dict[str, Any]
    """Those of the command line that belong to this system alone, where they were given."""

    name: ClassVar[str]
    own: ClassVar[tuple[str, ...]]
    """The options that this system knows."""

    @classmethod
    @abstractmethod
    def presets(cls) -> dict[str, Any]: ...

    @classmethod
    @abstractmethod
    def sized(cls, preset: Any, folder: Path) -> Any:
        """The preset with a checkpoint's sizes."""

    @property
    @abstractmethod
    def prefix(self) -> int:
        """Prefix tokens (CLS) of the tower's features."""

    @abstractmethod
    def questions(self, texts: list[str], length: int | None) -> "Prompts":
        """In the checkpoint's vocabularies where it has them, else as bytes; answers of at most `length` ids."""

    @abstractmethod
    def model(self, prefix: int, source: "Source", questions: "Prompts | None" = None) -> Any:
        """The model with its weights, for an input whose features have `prefix` prefix tokens."""

    @abstractmethod
    def run(self, model: Any, source: "Source", questions: "Prompts", **options: Any) -> "Record":
        """The input through the system."""

    def comparable(self, model: Any, expected: int | None, questions: "Prompts") -> "Part | None":
        """The first frames that the reference path can take, where it cannot take all that are expected."""
        return None

    @property
    def weights(self) -> str:
        """What a feature file says of the tower's weights."""
        from longreel.models.checkpoint import fingerprint
        from longreel.models.weights import RANDOM

        return RANDOM if self.checkpoint is None else f"checkpoint {fingerprint(self.checkpoint)}"

    def open(self, inputs: list[Path], frames: str | None, chunk: int | None) -> tuple["Source", int]:
        """The input, and how many prefix tokens its features have. frames, chunk: None where they were not given."""
        from longreel.data import FeatureStream, is_feature_file
        from longreel.data import frames as open_frames
        from longreel.models.feed import check_features
        from longreel.models.voco_llama import kept

        size = self.preset
        if len(inputs) == 1 and is_feature_file(inputs[0]):
            if kept.described(inputs[0]) is not None:
                raise ValueError(f"{inputs[0]}: a file of kept rows of {kept.SYSTEM}, this run is {self.name}")
            features = FeatureStream(inputs[0], chunk=chunk or size.chunk, pin=self.device.type == "cuda")
            prefix = check_features(features, self.name, size, self.weights)
            if frames is not None:
                raise ValueError(f"--frames {frames}: {inputs[0]} holds features, its frames were chosen before")
            if prefix > self.prefix:
                raise ValueError(
                    f"{inputs[0]}: --drop-cls belongs to `longreel extract`; this file keeps the CLS token"
                )
            return features, prefix
        return open_frames(inputs, frames or FRAMES, size=size.tower.image, chunk=chunk or size.chunk), self.prefix


@dataclass(frozen=True)
class Part:
    """The first `frames` of an input, and why no more."""

    frames: int
    why: str


def device_of(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"--device {name}: this torch runs on cpu{', cuda' * torch.cuda.is_available()}")
    return device


def cap_memory(device: torch.device, gib: float | None) -> None:
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


def named(inputs: list[Path]) -> str:
    """The inputs, without their folders."""
    return ", ".join(path.name for path in inputs)


def about(source: "Source", inputs: list[Path], frames: str | None) -> dict[str, str]:
    """What a feature file says of its source."""
    from longreel.models.feed import is_still

    kind = "images" if is_still(source) else "video"
    return {"source": named(inputs), "kind": kind, "frames": "all" if kind == "images" else frames or FRAMES}


def check_output(path: Path | None, *suffixes: str) -> None:
    """Before an hour of work, not after it."""
    if path is None:
        return
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"{path}: its name must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path}: cannot be written there")


def check_apart(inputs: list[Path], **outputs: Path | None) -> None:
    """ValueError where an option's file is an input, or another option's, under whatever name."""
    taken = [("the input", path) for path in inputs]
    for option, path in outputs.items():
        if path is None:
            continue
        for whose, other in taken:
            if _same_file(path, other):
                raise ValueError(f"--{option} {path}: is the file of {whose}, give it one of its own")
        taken.append((f"--{option}", path))


def _same_file(a: Path, b: Path) -> bool:
    # Links that lead nowhere yet have a real path, hard links have one file.
    return os.path.realpath(a) == os.path.realpath(b) or (a.exists() and b.exists() and a.samefile(b))


def append(path: Path, line: dict[str, Any]) -> None:
    """One line of JSON more."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def consoles() -> tuple[Console, Console]:
    """For results and for progress."""
    wide = None if sys.stdout.isatty() else 100
    return Console(width=wide, highlight=False), Console(stderr=True)


@contextlib.contextmanager
def progress(log: Console, expected: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, nothing where that is not a terminal."""
    bar = Progress(
        TextColumn("[bold]frames"), BarColumn(None), MofNCompleteColumn(), TextColumn("elapsed"), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=log, disable=not log.is_terminal, transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("frames", total=expected)
        yield lambda done: bar.update(task, completed=done)


@contextlib.contextmanager
def one_line_warnings() -> Iterator[None]:
    """Damage that was passed over: one line on stderr, and on."""
    shown = warnings.showwarning

    def one_line(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        if category.__name__ == "MediaWarning":
            print(f"warning: {message}", file=sys.stderr)
        else:
            shown(message, category, *rest, **named)

    warnings.showwarning = one_line
    try:
        yield
    finally:
        warnings.showwarning = shown


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What the user can mend: one line on stderr and exit code 2, or `NO_ROOM`; warnings as `one_line_warnings`."""
    try:
        with one_line_warnings():
            yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("longreel"):
            raise
        _stop(_MISSING.format(error.name))
    except (torch.OutOfMemoryError, MemoryError) as error:
        _stop(". ".join(str(error).split(". ")[:2]) or "out of memory", NO_ROOM)
    except (ValueError, BackendError, OSError) as error:
        _stop(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(130) from None


def _stop(reason: str, code: int = 2) -> None:
    print("longreel: " + " ".join(reason.split()), file=sys.stderr)
    raise typer.Exit(code) from None
