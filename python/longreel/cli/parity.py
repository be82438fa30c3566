"""`longreel parity`: a model with longreel inside against the same without, and both against float64."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from longreel.cli.console import one_line_errors
from longreel.cli.files import append, check_apart, check_output
from longreel.cli.options import Checkpoint, Device, JsonFile, bounded
from longreel.models import registry

if TYPE_CHECKING:
    from longreel.parity.lines import Drift

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def parity(
    model: Annotated[
        str,
        typer.Argument(
            help="A folder with a model of transformers; MODULE:FUNCTION, which gives (model, inputs); or a system:"
            f" {', '.join(registry.SYSTEMS)}."
        ),
    ],
    dtype: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(_DTYPES)}; may be repeated. Default: both.")
    ] = None,
    op: Annotated[
        list[str] | None, typer.Option(help="Of longreel.patch, may be repeated. Default: all that fit.")
    ] = None,
    attention: Annotated[
        bool, typer.Option(help="longreel's attention in the text model too, where it takes one by name.")
    ] = True,
    gradients: Annotated[
        bool, typer.Option(help="Of all weights too: the memory of three sets, one in float64.")
    ] = True,
    inputs: Annotated[
        Path | None,
        typer.Option(help="Of a folder: keywords of forward, a safetensors file. Default: noise and words."),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, callback=bounded, help="Frames of noise.")] = 4,
    preset: Annotated[str, typer.Option(help="Of a system.")] = "tiny",
    checkpoint: Checkpoint = None,
    backend: Annotated[
        str | None, typer.Option(help="Backend of longreel's ops; default: the best that runs here.")
    ] = None,
    device: Device = None,
    json_file: JsonFile = None,
) -> None:
    """Layer by layer, logits, first choices and gradients. Exit code 0: all within the error budget; 1: something is not; 2:
    nothing could be compared."""
    with one_line_errors():
        unknown = [name for name in dtype or () if name not in _DTYPES]
        if unknown:
            raise ValueError(f"--dtype {unknown[0]!r}: there is {', '.join(_DTYPES)}")
        check_apart([] if inputs is None else [inputs], json=json_file)
        check_output(json_file)
        names = [_DTYPES[name] for name in dtype or _DTYPES]
        options: dict[str, object] = {
            "ops": op or "auto",
            "backend": backend,
            "attention": attention,
            "gradients": gradients,
        }
        if model in registry.SYSTEMS:
            from longreel.parity.systems import system_drifts

            if op or inputs is not None or not attention:
                raise ValueError(f"{model}: --op, --inputs and --no-attention are for models of transformers")
            drifts: Iterator[Drift] = system_drifts(
                model, names, preset=preset, checkpoint=checkpoint, frames=frames, device=device, backend=backend
            )
        else:
            drifts = _of_model(model, [getattr(torch, name) for name in names], inputs, frames, device, options)
            if checkpoint is not None or preset != "tiny":
                raise ValueError(f"{model}: --checkpoint and --preset are of a system: {', '.join(registry.SYSTEMS)}")
        right = True
        for index, drift in enumerate(drifts):
            print("\n" * bool(index) + drift.table(), flush=True)
            right = right and drift.right
            if json_file is not None:
                append(json_file, drift.json())
        print(f"\n{'equal within the error budget' if right else 'DIFFERENT: over the error budget'}")
    if not right:
        raise typer.Exit(1)


def _of_model(
    model: str,
    dtypes: list[torch.dtype],
    inputs: Path | None,
    frames: int,
    device: str | None,
    options: dict[str, object],
) -> "Iterator[Drift]":
    from longreel.models.setup import device_of
    from longreel.parity.folder import folder_drifts, made_drifts

    if Path(model).is_dir():
        return folder_drifts(Path(model), dtypes, inputs=inputs, frames=frames, device=device_of(device), **options)
    if ":" not in model:
        raise ValueError(
            f"{model}: no such folder; allowed: a folder, MODULE:FUNCTION, or one of {', '.join(registry.SYSTEMS)}"
        )
    if inputs is not None or device is not None:
        raise ValueError(f"{model}: gives its own inputs on its own device; --inputs and --device are for a folder")
    return made_drifts(model, dtypes, **options)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(parity)
