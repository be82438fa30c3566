"""How much the trained decoder recalls: by depth, length and ratio, beside chance and a shuffled memory.

    python benchmarks/needle/needle_grid.py [--videos 25] [--chunks 4 8 16 32 64] [--ratios 4 8 16] [--picture FILE.png]

Every video has 8 pairs, each in its own eighth of it. Each is asked for alone: behind the memory, behind the memory from its
file, and behind a shuffled one.
"""

import argparse
import time
from pathlib import Path

import torch
from needle_model import WEIGHTS, encode, load, recalled, reloaded, shuffled
from needle_task import CHANCE, Needles, batch
from torch import Tensor

WAYS = ("memory", "from its file", "shuffled")


def cell(weights: Path, chunks: int, ratio: int, videos: int, seed: int) -> dict[str, Tensor]:
    """Of each way the share [pairs], by depth, that is answered right."""
    given, decoder = batch(Needles(chunks), videos, seed), load(weights, ratio=ratio)
    right = {way: torch.zeros(given.keys.shape[1]) for way in WAYS}
    for b, (video, keys, values) in enumerate(zip(given.video, given.keys, given.values, strict=True)):
        memory = encode(decoder, video)
        again, broken = (reloaded(decoder, memory) for _ in range(2))
        for way, asked in zip(WAYS, (memory, again, shuffled(broken, seed + b)), strict=True):
            right[way] += (recalled(decoder, asked, keys) == values) / videos
    return right


def draw(cells: dict[tuple[int, int], dict[str, Tensor]], path: Path) -> None:
    """A panel a ratio, and one of the shuffled memory at the middle one: chunks across, depth down."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ratios, lengths = sorted({ratio for ratio, _ in cells}), sorted({chunks for _, chunks in cells})
    middle = ratios[len(ratios) // 2]
    panels = [(f"ratio {ratio}", ratio, "memory") for ratio in ratios]
    panels.append((f"ratio {middle}, shuffled memory", middle, "shuffled"))
    figure, every = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.8), dpi=130, layout="constrained")
    for axes, (title, ratio, way) in zip(every, panels, strict=True):
        grid = torch.stack([cells[ratio, chunks][way] for chunks in lengths], 1)
        shown = axes.imshow(grid, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        for (depth, column), share in zip(
            torch.cartesian_prod(*map(torch.arange, grid.shape)), grid.flatten(), strict=True
        ):
            axes.text(column, depth, f"{100 * share:.0f}", ha="center", va="center", fontsize=7)
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(len(lengths)), lengths)
        axes.set_yticks(range(len(grid)), [f"{(i + 0.5) / len(grid):.0%}" for i in range(len(grid))])
        axes.set_xlabel("chunks of 144 tokens")
    every[0].set_ylabel("depth of the pair in the video")
    figure.colorbar(shown, ax=every, label="answered right", shrink=0.8)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Recall by depth, length and ratio.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--videos", type=int, default=25, help="of each length and ratio (25: 200 questions)")
    parser.add_argument("--chunks", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--ratios", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--seed", type=int, default=10**9, help="of the videos; training has smaller ones")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    start = time.monotonic()
    cells = {}
    print(f"chance {CHANCE:.1%}, or {1 / 8:.1%} for one that knows the video's 8 values and not which is whose")
    for ratio in args.ratios:
        for chunks in args.chunks:
            right = cells[ratio, chunks] = cell(args.weights, chunks, ratio, args.videos, args.seed)
            said = ", ".join(f"{way} {right[way].mean():.1%}" for way in WAYS)
            depths = " ".join(f"{100 * share:.0f}" for share in right[WAYS[0]])
            print(f"ratio {ratio}, {chunks} chunks: {said}; by depth {depths}", flush=True)
    print(f"{time.monotonic() - start:.0f} s")
    if args.picture is not None:
        draw(cells, args.picture)


if __name__ == "__main__":
    main()
