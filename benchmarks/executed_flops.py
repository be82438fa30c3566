"""FLOPs that each backend's forward executes over those of the visible pairs: `python benchmarks/executed_flops.py`.

A Markdown table of 64 frames, 64 text rows, 8 heads of 64. Bars: at most 1.25 on the CPU (float32). On a GPU, for 256 frames
(`--frames 256`) of 2 VoCo tokens in causal mode, at most 1.6 at 144 patches a frame, 1.5 at 256 and 1.4 at 576; in independent
mode at most 2.3 at 144. With one VoCo token a frame half as many keys are visible behind it, and the same tiles are executed.
"""

import argparse

import torch

from longreel import VideoLayout
from longreel.layout import visible_pairs
from longreel.layout.planning import lowered_to
from longreel.ops._block_sparse_attention import executed_flops

TEXT, HEADS, WIDTH = 64, 8, 64
# the device whose plan it takes; `meta` has a GPU's
BACKENDS = {"cpu": "cpu", "flash": "cpu", "triton": "meta"}


def layouts(frames: int) -> dict[str, VideoLayout]:
    made = {}
    for vision in (144, 256, 576):
        for voco in (1, 2, 8):
            for mode in ("independent", "causal"):
                video = VideoLayout.voco(frames=frames, vision=vision, voco=voco, text=TEXT, mode=mode)
                made[f"VoCo {vision} + {voco}, {mode}"] = video
    for vision in (144, 576):
        for ratio in (4, 8, 16):
            video = VideoLayout.vst(visual=frames * vision, chunk=1440, ratio=ratio, prefix=14, text=TEXT)
            made[f"VST {vision} a frame, chunk 1440, ratio {ratio}"] = video
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=64)
    frames = parser.parse_args().frames
    print("| layout | " + " | ".join(BACKENDS) + " |")
    print("| --- |" + " ---: |" * len(BACKENDS))
    for name, layout in layouts(frames).items():
        visible = 4 * WIDTH * HEADS * visible_pairs(layout)
        cells = []
        for backend, device in BACKENDS.items():
            executed = executed_flops(lowered_to(layout, device), backend, HEADS, HEADS, WIDTH, torch.float32)
            cells.append("-" if executed is None else f"{executed / visible:.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
