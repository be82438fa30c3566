"""`longreel convert`: a released checkpoint into one folder of safetensors."""

from pathlib import Path
from typing import Annotated

import typer

from longreel.cli.console import one_line_errors
from longreel.cli.ends import end_if_told
from longreel.models import registry


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="Released weights as they were published: safetensors, pickled shards, towers beside them.",
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="A folder that is not there yet.")],
    system: Annotated[
        str | None,
        typer.Option(help=f"One of: {', '.join(registry.SYSTEMS)}. Default: the one whose entries these are."),
    ] = None,
    preset: Annotated[str, typer.Option(help="Whose sizes stand where config.json leaves them open.")] = "7b",
) -> None:
    """Check every entry of a released checkpoint, and write it as safetensors that `--checkpoint DST` loads at once. Nothing of
    it is run; a damaged one is refused in one line that names the entry or the file."""
    with one_line_errors():
        from longreel.models.convert import convert as converted

        done = converted(source, target, system, preset, told=lambda name: end_if_told())
        print(
            f"{done.system}: {done.entries:,} entries, {done.bytes / 2**20:,.1f} MiB in {done.shards} files:"
            f" longreel run VIDEO --system {done.system} --preset {preset} --checkpoint {target}"
        )


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(convert)
