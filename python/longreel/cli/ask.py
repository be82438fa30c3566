"""`longreel ask`: more questions about a memory that a run saved, whichever system made it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from longreel.cli.console import one_line_errors
from longreel.cli.options import Checkpoint, Device, JsonFile, bounded
from longreel.cli.run import run


def ask(
    memory: Annotated[Path, typer.Argument(help="What `longreel run --save-memory` wrote.")],
    question: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    checkpoint: Checkpoint = None,
    answer_tokens: Annotated[
        int | None,
        typer.Option(min=1, callback=bounded, help="Tokens at most. Default: 64, and 8 ids from random weights."),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="Backend of longreel's ops; default: the best that runs here.")
    ] = None,
    device: Device = None,
    json_file: JsonFile = None,
) -> None:
    """Ask a saved memory: nothing is decoded or encoded again. The file says which system and preset made it."""
    with one_line_errors():
        about = _about(memory, checkpoint)
    run(
        [memory], about["system"], about["preset"], checkpoint, question, answer_tokens=answer_tokens,
        backend=backend, device=device, json_file=json_file,
    )  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(ask)


def _about(memory: Path, checkpoint: Path | None) -> dict[str, Any]:
    from longreel.models import registry
    from longreel.models.memory import RANDOM, described

    about = described(memory) if memory.is_file() else None
    if about is None:
        what = "no saved memory (`longreel run --save-memory` makes one)" if memory.exists() else "no such file"
        raise ValueError(f"{memory}: {what}")
    for name in ("system", "preset"):
        if not isinstance(about.get(name), str):
            raise ValueError(f"{memory}: does not say its {name}; `longreel run {memory} --{name} ...` asks it")
    weights = about.get("weights", RANDOM)
    own = registry.find(about["system"]).weights(about["preset"])
    if weights != RANDOM and checkpoint is None and own is None:
        raise ValueError(f"{memory}: made with {weights}: give its folder, --checkpoint DIR")
    return about
