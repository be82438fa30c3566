"""A figure written, and closed however that ends."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from longreel.files.output import OutputFile


def save_figure(figure: Figure, path: Path) -> None:
    """In the format that the path ends with."""
    try:
        with OutputFile(path) as out:
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
