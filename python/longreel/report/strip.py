"""The strip of what mattered: a video's frames with the weight that each had for a question, as one HTML page."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from longreel.report import html
from longreel.report.figure_file import svg

# Frames shown of a question, and their width on the page.
_SHOWN, _WIDTH = 6, 168
_STYLE = """
.strip { display: flex; flex-wrap: wrap; gap: .7rem; margin: .5rem 0 1rem; } .strip figure { width: 168px; }
.strip img { margin: 0; border: 3px solid #e3e7ec; } .strip .planted img { border-color: #2a9d4e; }
"""
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Asked:
    """One question: its answer and the right one (None where that is not known), the weight of every frame, of every chunk, and
    where a query over the patches looked in each frame (None where nothing did). planted: frames that hold what is asked for."""

    question: str
    answer: str
    right: str | None
    frames: NDArray[np.float32]
    chunks: NDArray[np.float32]
    patches: NDArray[np.float32] | None = None
    planted: tuple[int, ...] = ()


def strip_page(
    title: str, about: Sequence[str], pixels: Sequence[Pixels], seconds: Sequence[float], asked: Sequence[Asked]
) -> str:
    """pixels: uint8 RGB [H, W, 3] of every frame; seconds: when each is shown. Only those frames whose weights are largest are
    in the page."""
    parts = [html.paragraph(line, soft=True) for line in about]
    parts.append(html.contents([(f"q{i}", one.question) for i, one in enumerate(asked)]))
    for i, one in enumerate(asked):
        said = f"Answer: {one.answer or '(nothing)'}"
        if one.right is not None:
            said += f" – right: {one.right}"
        parts += [
            html.heading(2, one.question, f"q{i}"),
            html.paragraph(said),
            html.picture(_timeline(one, seconds), "svg+xml", f"weights over time: {one.question}"),
            _strip(one, pixels, seconds),
        ]
    return html.page(title, parts, style=_STYLE)


def _strip(one: Asked, pixels: Sequence[Pixels], seconds: Sequence[float]) -> str:
    """The frames with the largest weights, the largest first; beside each where the query looked."""
    out = []
    total = float(one.frames.sum()) or 1.0
    for place in np.argsort(-one.frames, kind="stable")[:_SHOWN].tolist():
        share = float(one.frames[place]) / total
        caption = f"{_clock(seconds[place])}, {share:.1%} of what went to frames"
        images = html.picture(_jpeg(pixels[place]), "jpeg", caption)
        if one.patches is not None:
            images += html.picture(_jpeg(_looked(pixels[place], one.patches[place])), "jpeg", f"patches: {caption}")
        kind = ' class="planted"' if place in one.planted else ""
        out.append(f"<figure{kind}>{images}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="strip">{"".join(out)}</div>'


def _timeline(one: Asked, seconds: Sequence[float]) -> bytes:
    """SVG: above the weight of every frame, below that of every chunk."""
    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "longreel"}
    with plt.rc_context(style):
        figure, (frames, chunks) = plt.subplots(2, 1, figsize=(12, 3.4), layout="constrained", sharex=True)
        minutes = np.asarray(seconds) / 60
        step = float(minutes[1] - minutes[0]) if len(minutes) > 1 else 1.0
        ink = ["#2a9d4e" if place in one.planted else "#6f8fb5" for place in range(len(minutes))]
        frames.bar(minutes, one.frames, width=step, align="edge", color=ink)
        frames.set_ylabel("weight of a frame")
        for place in one.planted:
            frames.annotate(
                "shown here", (minutes[place], float(one.frames[place])), (0, 3), textcoords="offset points", ha="center",
                color="#2a9d4e",
            )  # fmt: skip
        frames.margins(y=0.18)
        wide = len(minutes) * step / max(1, len(one.chunks))
        chunks.bar(
            minutes[0] + wide * np.arange(len(one.chunks)),
            one.chunks,
            width=wide,
            align="edge",
            color="#b279a2",
            edgecolor="white",
        )
        chunks.set_ylabel("of a chunk")
        chunks.set_xlabel("minutes")
        return svg(figure)


def _looked(picture: Pixels, weights: NDArray[np.float32]) -> Pixels:
    """The picture, dark where a query over its patches, a square of them, did not look."""
    side = round(len(weights) ** 0.5)
    mask = (255 * weights / max(float(weights.max()), 1e-12)).astype(np.uint8).reshape(side, side)
    grown = np.asarray(Image.fromarray(mask).resize(picture.shape[1::-1], Image.Resampling.BILINEAR))
    return (picture * (0.15 + 0.85 * grown[..., None] / 255)).astype(np.uint8)


def _jpeg(picture: Pixels) -> bytes:
    out, height = io.BytesIO(), round(picture.shape[0] * _WIDTH / picture.shape[1])
    Image.fromarray(picture).resize((_WIDTH, height)).save(out, "JPEG", quality=82)
    return out.getvalue()


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
