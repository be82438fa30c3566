"""A figure written, and closed however that ends."""

import io
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from longreel.files.foreign import plain
from longreel.files.output import OutputFile


def titled(figure: Figure, text: str) -> None:
    """A title that may hold names of others: a dollar sign is one."""
    figure.suptitle(plain(text), fontweight="bold", x=0.01, ha="left", parse_math=False)


def save_figure(figure: Figure, path: Path) -> None:
    """In the format that the path ends with."""
    try:
        with OutputFile(path) as out, warnings.catch_warnings():
            # Of a script that the font lacks; its place is left empty.
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            figure.savefig(out.file, format=path.suffix.removeprefix("."))
    finally:
        plt.close(figure)


def svg(figure: Figure) -> bytes:
    """For a page that holds it; the same bytes whenever it is drawn."""
    out = io.BytesIO()
    try:
        figure.savefig(out, format="svg", metadata={"Date": None})
    finally:
        plt.close(figure)
    return out.getvalue()
