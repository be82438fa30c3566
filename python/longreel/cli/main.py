"""The `longreel` command: one verb a file."""

import typer

from longreel.cli import ask, bench, extract, profile, run
from longreel.cli.doctor import doctor


def make_app() -> typer.Typer:
    """With flags for the options of every system that is registered by now."""
    app = typer.Typer(
        help="Kernels for long-video vision-language models: run a video, measure them, and see what runs here.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_show_locals=False,
    )
    app.command()(doctor)
    for command in (bench, run, ask, extract, profile):
        command.register(app)
    return app


app = make_app()


def main() -> None:
    app()
