"""The `longreel` command: one verb a file."""

import typer

from longreel.cli import bench, profile, run
from longreel.cli.doctor import doctor

app = typer.Typer(
    help="Kernels for long-video vision-language models: run a video, measure them, and see what runs here.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.command()(doctor)
bench.register(app)
run.register(app)
profile.register(app)


def main() -> None:
    app()
