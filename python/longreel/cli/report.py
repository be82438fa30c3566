"""`longreel report`: results as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from longreel.cli.console import one_line_errors
from longreel.cli.files import check_apart, check_output
from longreel.files.output import write_text

_DEFAULT = Path("benchmarks/results")


def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            help="JSON-lines files, or folders of them; default benchmarks/results.", metavar="[RESULTS]..."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
) -> None:
    """What `longreel bench`, `longreel profile` and whole runs measured, as one HTML page that needs nothing else."""
    named = results or [_DEFAULT]
    with one_line_errors():
        check_output(output, ".html", ".htm")
        check_apart(named, output=output)
        try:
            from longreel.report.result_page import gathered, result_page
        except ModuleNotFoundError as error:
            raise ValueError(f"longreel report needs {error.name}: pip install 'longreel[demo]'") from None
        write_text(output, result_page(gathered(named)))
    typer.echo(output)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(report)
