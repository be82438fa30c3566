"""A picture of what a cut left of a video: frames with the kept tokens lit, a row of frames a method."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from longreel.compression import VideoCut
from longreel.report.figure_file import save_figure, titled

_COLUMNS, _DARK = 10, 0.18


def shown_steps(steps: int, planted: Sequence[int]) -> list[int]:
    """At most ten steps, spread evenly, planted ones among them."""
    room = max(0, _COLUMNS - len(planted))
    spread = [round(i * (steps - 1) / max(1, room - 1)) for i in range(room)] if room > 1 else [0] * room
    return sorted({*planted, *spread})[: max(_COLUMNS, len(planted))]


def lit(frame: Tensor, cut: VideoCut, step: int) -> Tensor:
    """uint8 [h, w, 3]: the frame with all but the kept tokens dark."""
    tokens = cut.shape[1]
    flags = torch.zeros(tokens)
    here = cut.kept[(cut.kept >= step * tokens) & (cut.kept < (step + 1) * tokens)] - step * tokens
    flags[here.cpu()] = 1
    light = torch.nn.functional.interpolate(flags.view(1, 1, *cut.grid), size=frame.shape[:2], mode="nearest")[0, 0]
    return (frame.float() * (_DARK + (1 - _DARK) * light)[..., None]).to(torch.uint8)


def draw_kept(
    frames: Tensor, cuts: Sequence[tuple[str, VideoCut]], planted: Sequence[int], title: str, path: Path
) -> None:
    """Writes a PNG (or what the suffix says). frames: uint8 [T, h, w, 3], one of every step; cuts: with their names."""
    steps = shown_steps(len(frames), planted)
    with plt.rc_context({"font.size": 9}):
        figure, grid = plt.subplots(
            1 + len(cuts), len(steps), figsize=(1.3 * len(steps) + 0.9, 1.42 * (1 + len(cuts)) + 0.4), dpi=130,
            layout="constrained", squeeze=False,
        )  # fmt: skip
        for row, (name, cut) in enumerate([("all", None), *cuts]):
            for column, step in enumerate(steps):
                axes = grid[row, column]
                axes.imshow((frames[step] if cut is None else lit(frames[step], cut, step)).numpy())
                axes.set_xticks([])
                axes.set_yticks([])
                for side in axes.spines.values():
                    side.set(color="#d62728" if step in planted else "#cccccc", linewidth=2 if step in planted else 0.5)
                if row == 0:
                    axes.set_title(f"planted {step}" if step in planted else str(step), fontsize=9)
                elif cut is not None:
                    share = int(((cut.kept // cut.shape[1]) == step).sum()) / cut.shape[1]
                    axes.set_xlabel(f"{share:.0%}", fontsize=8, labelpad=1)
            grid[row, 0].set_ylabel(name)
        titled(figure, title)
        save_figure(figure, path)
