"""LLaVA-OneVision's projector and pooling of a video, its own beside longreel's order: pooled before the second linear layer, in
pieces of frames. True sizes: 27 x 27 patches of 1152, projected to 3584, 14 x 14 tokens a frame; random weights.

    python benchmarks/pool_before_projector.py                     seconds, interleaved rounds, and memory
    python benchmarks/pool_before_projector.py --frames 8 --dtype bfloat16
    python benchmarks/pool_before_projector.py --hour --frames 64 --dtype bfloat16

Memory is what the process takes at its peak beyond the weights and the patches, at two lengths; 3,600 frames, an hour, are by
their straight line. --hour: 3,600 frames in truth, longreel in one call and its own, which would not fit, --frames at a time;
patches are one frame's, read again and again.
"""

import argparse
import time
from statistics import median
from types import SimpleNamespace

import torch
from torch import Tensor
from transformers.models.llava_onevision import modeling_llava_onevision as own

from longreel.integrations.patches.pools import projected_and_pooled
from longreel.measure.memory import peak_memory

SIDE, WIDTH, HIDDEN, HOUR = 27, 1152, 3584, 3600


def config() -> SimpleNamespace:
    """What the projector and the pooling read of a model's configuration."""
    return SimpleNamespace(
        vision_config=SimpleNamespace(hidden_size=WIDTH, image_size=14 * SIDE, patch_size=14),
        text_config=SimpleNamespace(hidden_size=HIDDEN),
        vision_feature_layer=-1, projector_hidden_act="gelu", multimodal_projector_bias=True,
    )  # fmt: skip


def projector_of(dtype: torch.dtype) -> own.LlavaOnevisionMultiModalProjector:
    torch.manual_seed(0)
    return own.LlavaOnevisionMultiModalProjector(config()).to(dtype).eval()


def plain(projector: own.LlavaOnevisionMultiModalProjector, x: Tensor) -> Tensor:
    return own.LlavaOnevisionModel.apply_pooling(SimpleNamespace(config=config()), projector(x))


def ours(projector: own.LlavaOnevisionMultiModalProjector, x: Tensor) -> Tensor:
    return projected_and_pooled(projector, x, SIDE, None)


PATHS = {"own": plain, "longreel": ours}


def patches(frames: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(frames, SIDE * SIDE, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)


@torch.no_grad()
def memory(path: str, frames: int, dtype: torch.dtype) -> int:
    """Bytes at the peak of one call, with what it returns."""
    projector, x = projector_of(dtype), patches(frames, dtype)
    PATHS[path](projector, x[:1])
    results: list[Tensor] = []
    extra = peak_memory(lambda: results.append(PATHS[path](projector, x)), x.device).extra
    if extra is None:
        raise SystemExit("memory is not measured here")
    return extra


@torch.no_grad()
def seconds(frames: int, dtype: torch.dtype, rounds: int) -> tuple[dict[str, list[float]], float]:
    """By path, round by round; the largest difference over the largest value."""
    projector, x = projector_of(dtype), patches(frames, dtype)
    results = {name: path(projector, x) for name, path in PATHS.items()}
    apart = (results["own"].double() - results["longreel"].double()).abs().max() / results["own"].abs().max()
    found: dict[str, list[float]] = {name: [] for name in PATHS}
    for _ in range(rounds):
        for name, path in PATHS.items():
            start = time.perf_counter()
            path(projector, x)
            found[name].append(time.perf_counter() - start)
    return found, float(apart)


@torch.no_grad()
def hour(piece: int, dtype: torch.dtype) -> None:
    projector, x = projector_of(dtype), patches(1, dtype)
    for path in PATHS.values():
        path(projector, x.expand(2, -1, -1))
    took = []

    def call() -> Tensor:
        start = time.perf_counter()
        result = ours(projector, x.expand(HOUR, -1, -1))
        took.append(time.perf_counter() - start)
        return result

    extra = peak_memory(call, x.device).extra
    start = time.perf_counter()
    for a in range(0, HOUR, piece):
        plain(projector, x.expand(min(piece, HOUR - a), -1, -1))
    took.append(time.perf_counter() - start)
    held = "not measured" if extra is None else f"{extra / 2**30:.2f} GiB"
    print(
        f"{HOUR} frames, {dtype}: longreel {took[0]:.1f} s in one call, memory {held} beside its result; its own, {piece}"
        f" frames at a time, {took[1]:.1f} s: {took[1] / took[0]:.2f}x",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), action="append")
    parser.add_argument("--hour", action="store_true")
    given = parser.parse_args()
    names = given.dtype or ["float32", "bfloat16"]
    if given.hour:
        for name in names:
            hour(given.frames, getattr(torch, name))
        return
    print(f"{given.frames} frames, {torch.get_num_threads()} threads")
    for name in names:
        found, apart = seconds(given.frames, getattr(torch, name), given.rounds)
        own_s, ours_s = (median(found[path]) for path in PATHS)
        ratio = median(a / b for a, b in zip(found["own"], found["longreel"], strict=True))
        print(
            f"{name}: own {own_s:.3f} s, longreel {ours_s:.3f} s: {ratio:.2f}x (medians of {given.rounds});"
            f" apart by {apart:.1e} of the largest value"
        )
        lines = {}
        for path in PATHS:
            few, many = given.frames, 2 * given.frames
            a, b = (memory(path, frames, getattr(torch, name)) for frames in (few, many))
            lines[path] = b + (b - a) / given.frames * (HOUR - many)
            said = f"{a / 2**20:.0f} MiB at {few} frames, {b / 2**20:.0f} at {many}"
            print(f"  {path}: {said}; {HOUR} by their line {lines[path] / 2**30:.1f} GiB")
        print(f"  activations: {lines['longreel'] / lines['own']:.2f} of its own")


if __name__ == "__main__":
    main()
