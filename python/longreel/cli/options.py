"""Options that several commands share, and the flags that are made of every system's `Options`."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

import torch
import typer

from longreel.models import registry
from longreel.models.options import choices
from longreel.ranks import Rank

# Of whatever is counted: a number beyond it fits no tensor, and is a mistake.
MOST = 2**31 - 1
SYSTEM = registry.default()


def _presets() -> str:
    """Those that all systems have, and who has more."""
    systems = registry.every()
    common = [name for name in systems[0].presets if all(name in system.presets for system in systems)]
    more = [(system.name, [name for name in system.presets if name not in common]) for system in systems]
    also = "; ".join(f"{system} also {', '.join(names)}" for system, names in more if names)
    return f"{', '.join(common)}{f' ({also})' if also else ''}: random weights; tiny takes an hour on two cores."


def _frames() -> str:
    """What is taken where nothing is said, and by whom else."""
    systems = registry.every()
    others = "; ".join(f"{each.name}: {each.frames}" for each in systems if each.frames != systems[0].frames)
    return f"{systems[0].frames}{f' ({others})' if others else ''}"


def _saving() -> str:
    return ", ".join(system.name for system in registry.every() if system.memory is not None)


def bounded(value: Any) -> Any:
    """A callback of options that count; a range would fill the column of the help."""
    for each in value if isinstance(value, list | tuple) else (value,):
        if each is not None and each > MOST:
            raise typer.BadParameter(f"{each} is above {MOST}")
    return value


Input = Annotated[
    list[Path],
    typer.Argument(
        help="A video, one or several images, a file of features (`longreel extract`), or a saved memory"
        f" (`longreel run --save-memory`; {_saving()})."
    ),
]
System = Annotated[str, typer.Option(help=f"One of: {', '.join(registry.SYSTEMS)}.")]
PresetName = Annotated[str, typer.Option("--preset", help=_presets())]
Checkpoint = Annotated[
    Path | None, typer.Option(help="A folder of released weights; its config.json sets the preset's sizes.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; default: the GPU where there is one.")]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32 or bfloat16, on every path. Default: the preset's; of most, bfloat16 where the CPU multiplies it natively."
    ),
]
MemoryCap = Annotated[
    float | None, typer.Option(min=0.0, help="GiB that torch may take of the GPU's memory, as on a smaller card.")
]
Frames = Annotated[
    str | None,
    typer.Option(
        help="Which frames of a video: fps:1, uniform:128, fps:1,max=128, keys (key frames) or keys:1 (at most one a second)."
        f" Default: {_frames()}."
    ),
]
Chunk = Annotated[int | None, typer.Option(min=1, callback=bounded, help="Frames at a time; default: the preset's.")]
SaveMemory = Annotated[
    Path | None,
    typer.Option(
        "--save-memory",
        "--keep",
        help=f"{_saving()}: save what is cached of the frames: `longreel ask` answers from this file, nothing is decoded.",
    ),
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Append the figures to this file, as a line of JSON.")]
Own = Mapping[str, Any]
"""Options of systems, by name; None or False where they were not given."""


@dataclass
class _Flag:
    """One option: of what type, its least value, and what it means to each system that has it."""

    kind: type
    least: int | None
    meant: list[str] = field(default_factory=list)


def own_device(device: str | None, rank: Rank) -> str | None:
    """For `--device`: of several processes of a machine each has a GPU of its own, in turn where there are fewer."""
    gpus = torch.cuda.device_count() if rank.count > 1 and rank.local is not None else 0
    if device not in (None, "cuda") or not gpus:
        return device
    own = f"cuda:{(rank.local or 0) % gpus}"
    torch.cuda.set_device(own)
    return own


def with_options(command: Callable[..., None], *, tower: bool = False) -> Callable[..., None]:
    """`command` with a flag for every option of every system in place of its parameter `own`, which gets them by name.

    tower: only those that change the features of the towers, or what they are made of.
    """
    hints = get_type_hints(command, include_extras=True)
    flags = _flags(tower)
    parameters = list[inspect.Parameter]()
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == "own":
            parameters += [_parameter(name, flag) for name, flag in flags.items()]
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))

    @functools.wraps(command)
    def called(**given: Any) -> None:
        own = {name: given.pop(name) for name in flags}
        command(**given, own=own)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _flags(tower: bool) -> dict[str, _Flag]:
    flags: dict[str, _Flag] = {}
    for system in registry.every():
        kinds = get_type_hints(system.Options)
        for each in fields(system.Options):
            if tower and not (each.metadata["tower"] or each.metadata["sound"]):
                continue
            flag = _Flag(_kind(kinds[each.name]), each.metadata["least"])
            held = flags.setdefault(each.name, flag)
            if (held.kind, held.least) != (flag.kind, flag.least):
                raise TypeError(f"the option {each.name} of {system.name} is of another type than another system's")
            held.meant.append(f"{system.name}: {each.metadata['help']}")
    return flags


def _kind(hint: Any) -> type:
    """bool, int, float, str or Path."""
    choice = choices(hint)
    kind: type = str if choice else next((part for part in get_args(hint) if part is not NoneType), hint)
    return kind


def _parameter(name: str, flag: _Flag) -> inspect.Parameter:
    meant = " ".join(flag.meant)
    most = bounded if flag.kind is int else None
    annotation: Any = Annotated[flag.kind | None, typer.Option(min=flag.least, callback=most, help=meant)]
    if flag.kind is bool:
        annotation = Annotated[bool, typer.Option(f"--{name.replace('_', '-')}", help=meant)]
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=False if flag.kind is bool else None,
        annotation=annotation,
    )
