"""FLOPs that each backend's forward executes over those of the visible pairs: `python benchmarks/executed_flops.py`.

A Markdown table of 64 frames, 64 text rows, 8 heads of 64. Bars: at most 1.25 on the CPU, 1.6 on a GPU.
"""

from longreel import VideoLayout
from longreel.layout import visible_pairs
from longreel.layout.planned import TILES
from longreel.layout.planning import lowered_to
from longreel.ops._block_sparse_attention import executed_flops

FRAMES, TEXT, HEADS, WIDTH = 64, 64, 8, 64
# the tiles of its plan
BACKENDS = {"cpu": TILES["cpu"], "flash": TILES["cpu"], "triton": TILES["cuda"]}


def layouts() -> dict[str, VideoLayout]:
    made = {}
    for vision in (144, 256, 576):
        for voco in (1, 8):
            for mode in ("independent", "causal"):
                video = VideoLayout.voco(frames=FRAMES, vision=vision, voco=voco, text=TEXT, mode=mode)
                made[f"VoCo {vision} + {voco}, {mode}"] = video
    for vision in (144, 576):
        for ratio in (4, 8, 16):
            video = VideoLayout.vst(visual=FRAMES * vision, chunk=1440, ratio=ratio, prefix=14, text=TEXT)
            made[f"VST {vision} a frame, chunk 1440, ratio {ratio}"] = video
    return made


def main() -> None:
    print("| layout | " + " | ".join(BACKENDS) + " |")
    print("| --- |" + " ---: |" * len(BACKENDS))
    for name, layout in layouts().items():
        visible = 4 * WIDTH * HEADS * visible_pairs(layout)
        cells = []
        for backend, tile in BACKENDS.items():
            executed = executed_flops(lowered_to(layout, "cpu", tile), backend, HEADS, HEADS, WIDTH)
            cells.append("-" if executed is None else f"{executed / visible:.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
