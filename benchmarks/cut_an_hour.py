"""An hour of features scored and cut: seconds, and memory at two lengths. Features are made as they are read, as a file's are.

    python benchmarks/cut_an_hour.py                     900 and 3,600 frames of 256 tokens of 3584, 16,384 tokens stay
    python benchmarks/cut_an_hour.py --method merge --dtype float32

Memory is what the process takes at its peak beyond what was there and what stays. Scores, places and groups, at most 40 bytes a
token of thousands, are all of it that may grow with the frames.
"""

import argparse
import time

import torch
from torch import Tensor

from longreel.compression.cuts import METHODS, cut
from longreel.measure.memory import peak_memory

GRID, WIDTH, LEFT = (16, 16), 3584, 16_384


class Footage:
    """Features [T, N, C] of scenes of a minute, with some noise in each frame."""

    device = torch.device("cpu")

    def __init__(self, frames: int, dtype: torch.dtype) -> None:
        self.shape, self.dtype = torch.Size([frames, GRID[0] * GRID[1], WIDTH]), dtype
        generator = torch.Generator().manual_seed(0)
        scenes = torch.randn(4, 1, *self.shape[1:], generator=generator)
        self.made = (scenes + 0.1 * torch.randn(4, 8, *self.shape[1:], generator=generator)).to(dtype)

    def __getitem__(self, span: slice) -> Tensor:
        t = torch.arange(*span.indices(self.shape[0]))
        return self.made[t // 60 % 4, t % 8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[900, 3600])
    parser.add_argument("--method", choices=METHODS, action="append")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    given = parser.parse_args()
    dtype = getattr(torch, given.dtype)
    query = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)
    left_bytes = LEFT * WIDTH * dtype.itemsize
    print(
        f"{given.dtype}, {torch.get_num_threads()} threads, a frame {Footage(1, dtype)[:1].nbytes / 2**20:.2f} MiB,",
        end=" ",
    )
    print(f"left {left_bytes / 2**20:.0f} MiB")
    for method in given.method or METHODS:
        for frames in given.frames:
            footage = Footage(frames, dtype)
            took: list[float] = []

            def call(footage: Footage = footage, method: str = method, took: list[float] = took) -> Tensor:
                start = time.perf_counter()
                out = cut(footage, method, LEFT, grid=GRID, query=query).of(footage)
                took.append(time.perf_counter() - start)
                return out

            extra = peak_memory(call, footage.device).extra
            said = "not measured" if extra is None else f"{extra / 2**20:.0f} MiB"
            whole = torch.Size(footage.shape).numel() * dtype.itemsize
            print(f"{method:8s} {frames} frames ({whole / 2**30:.2f} GiB): {took[-1]:.2f} s, memory {said}", flush=True)


if __name__ == "__main__":
    main()
