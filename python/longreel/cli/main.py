"""The `longreel` command: one verb a file."""

import sys
from typing import Annotated

import typer

from longreel import __version__
from longreel.cli import ask, bench, compress, convert, extract, parity, plan, profile, report, run, streams
from longreel.cli.console import one_line_errors
from longreel.cli.doctor import doctor
from longreel.files.output import remove_unfinished


def make_app() -> typer.Typer:
    """With flags for the options of every system that is registered by now."""
    app = typer.Typer(
        help="Kernels for long-video vision-language models: run a video, measure them, and ask what runs here.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_version)
    app.command()(doctor)
    for command in (bench, run, ask, extract, profile, plan, parity, convert, compress, report):
        command.register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def _version(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None: ...


app = make_app()


def main() -> None:
    """Ends the process: with what the command ends with, once its results are written."""
    streams.prepare()
    code = 0
    try:
        with one_line_errors():
            app()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except typer.Exit as end:
        code = end.exit_code
    finally:
        remove_unfinished()
    sys.exit(streams.finish(code))
