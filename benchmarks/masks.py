"""Bidirectional picture tokens and vision towers against what transformers does without us: CPU medians, in turns, in one run.

    python benchmarks/masks.py attention | long | flex | towers | end

attention: 8,192 tokens, 8 heads of 128 (and of 256), bf16, against SDPA with the dense mask. long: 32,768 tokens with the making
of both masks. flex: compiled flex_attention with its block mask, both built in the timed call. towers: one call for all pictures
against one batched SDPA and against SDPA picture by picture. end: a whole CLIP-L tower and `tiny`'s.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers.masking_utils import (
    and_masks,
    blockwise_overlay,
    causal_mask_function,
    or_masks,
    sdpa_mask,
    sliding_window_overlay,
)

from longreel import VideoLayout, block_sparse_attention
from longreel.integrations.transformers import range_mask

WINDOW, SHORT, LONG, WIDTHS = 1024, 8192, 32768, (128, 256)
# Pictures, rows, heads, width.
TOWERS = ((64, 257, 16, 88), (16, 577, 16, 64))


def in_turns(ways: dict[str, Callable[[], Any]], times: int) -> dict[str, float]:
    """Median seconds of each, the ways taking turns."""
    for way in ways.values():
        way()
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(times):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            found[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def line(what: str, seconds: dict[str, float], ours: str = "longreel") -> None:
    others = "  ".join(
        f"{name} {s * 1e3:.1f} ms ({s / seconds[ours]:.2f}x)" for name, s in seconds.items() if name != ours
    )
    print(f"{what}: longreel {seconds[ours] * 1e3:.1f} ms  {others}", flush=True)


def picture_ids(n: int) -> Tensor:
    """[1, n]: pictures of 256 tokens, words between them, as Gemma 3 has them."""
    ids, at = torch.full((1, n), -1), 7
    for number in range(n // 270):
        ids[0, at : at + 256] = number
        at += 270
    return ids


def masks(n: int) -> dict[str, Callable[..., Any]]:
    """Gemma 3's two masks."""
    both_ways = or_masks(causal_mask_function, blockwise_overlay(picture_ids(n)))
    return {"full": both_ways, "sliding": and_masks(both_ways, sliding_window_overlay(WINDOW))}


def heads(n: int, width: int) -> list[Tensor]:
    """q, k, v [1, n, 8, width], and contiguous [1, 8, n, width] for SDPA."""
    rows = [torch.randn(1, n, 8, width).bfloat16() for _ in range(3)]
    return [*rows, *(t.transpose(1, 2).contiguous() for t in rows)]


def attention() -> None:
    n = SHORT
    for width in WIDTHS:
        *ours, q, k, v = heads(n, width)
        for name, function in masks(n).items():
            plan = range_mask(1, n, n, mask_function=function).plan(None, 1, torch.device("cpu"))
            dense = sdpa_mask(1, n, n, mask_function=function, allow_is_causal_skip=False)
            ways = {
                "longreel": lambda ours=ours, plan=plan: block_sparse_attention(*ours, plan),
                "SDPA": lambda q=q, k=k, v=v, dense=dense: sdpa(q, k, v, dense),
            }
            line(f"{n} tokens, {name}, 8 x {width} bf16", in_turns(ways, 3))


def long() -> None:
    n = LONG
    lower = in_turns(
        {
            name: lambda f=f: range_mask(1, n, n, mask_function=f).plan(None, 1, torch.device("cpu"))
            for name, f in masks(n).items()
        },
        5,
    )
    fresh = []
    for _ in range(3):
        made = masks(n)
        start = time.perf_counter()
        plans = [range_mask(1, n, n, mask_function=f).plan(None, 1, torch.device("cpu")) for f in made.values()]
        fresh.append(time.perf_counter() - start)
    size = sum(t.nbytes for plan in plans for t in vars(plan).values() if isinstance(t, Tensor))
    print(
        f"lowering both masks of {n} tokens: {statistics.median(fresh) * 1e3:.1f} ms, {size / 2**20:.2f} MiB ({lower})",
        flush=True,
    )
    *ours, q, k, v = heads(n, 128)
    for name, function in masks(n).items():
        seconds = {}
        start = time.perf_counter()
        block_sparse_attention(*ours, range_mask(1, n, n, mask_function=function).plan(None, 1, torch.device("cpu")))
        seconds["longreel"] = time.perf_counter() - start
        start = time.perf_counter()
        dense = sdpa_mask(1, n, n, mask_function=function, allow_is_causal_skip=False)
        made_in = time.perf_counter() - start
        sdpa(q, k, v, dense)
        seconds[f"SDPA and its mask ({made_in:.1f} s of it)"] = time.perf_counter() - start
        line(f"{n} tokens, {name}, with its mask, once", seconds)
        del dense


def flex() -> None:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    n = SHORT
    *ours, q, k, v = heads(n, 128)
    compiled = torch.compile(flex_attention)
    for name, function in masks(n).items():

        def theirs(function: Callable[..., Any] = function) -> Tensor:
            return compiled(q, k, v, block_mask=create_block_mask(function, 1, None, n, n, device="cpu"))

        def mine(function: Callable[..., Any] = function) -> Tensor:
            return block_sparse_attention(*ours, range_mask(1, n, n, mask_function=function).plan(None, 1, q.device))

        line(f"{n} tokens, {name}, masks built", in_turns({"longreel": mine, "flex_attention": theirs}, 2))


def towers() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        for pictures, rows, count, width in TOWERS:
            total = pictures * rows
            packed = [torch.randn(1, total, count, width).to(dtype) for _ in range(3)]
            batch = [t.view(pictures, rows, count, width).transpose(1, 2).contiguous() for t in packed]
            heads_first = [t.transpose(1, 2) for t in packed]
            lengths = torch.arange(0, total + 1, rows, dtype=torch.int32)
            plan = VideoLayout.from_cu_seqlens(lengths, total)
            ways = {
                "longreel": lambda packed=packed, plan=plan: block_sparse_attention(*packed, plan),
                "batched SDPA": lambda batch=batch: sdpa(*batch),
                "SDPA, a picture a call": lambda parts=heads_first, rows=rows: torch.cat(
                    [sdpa(*each) for each in zip(*(t.split(rows, 2) for t in parts), strict=True)], 2
                ),
            }
            line(f"tower {pictures} x {rows} x {count} x {width} {str(dtype)[6:]}", in_turns(ways, 7))


def end() -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    shared: dict[str, Any] = {"num_hidden_layers": 6, "image_size": 224, "patch_size": 14}
    sizes = {
        "6 layers of 384, 6 heads": {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6},
        "6 layers of CLIP-L": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16},
    }
    for name, size in sizes.items():
        model = CLIPVisionModel(CLIPVisionConfig(**size | shared)).bfloat16().eval()
        pictures = torch.randn(8, 3, 224, 224).bfloat16()

        def through(attention: str, model: Any = model, pictures: Tensor = pictures) -> Callable[[], Any]:
            def run() -> Any:
                model.set_attn_implementation(attention)
                with torch.inference_mode():
                    return model(pictures)

            return run

        line(
            f"tower end to end, {name}, bf16",
            in_turns({"longreel": through("longreel_flash"), "SDPA": through("sdpa")}, 7),
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"attention": attention, "long": long, "flex": flex, "towers": towers, "end": end}
    parser.add_argument("part", nargs="+", choices=parts)
    for part in parser.parse_args().part:
        with torch.no_grad():
            parts[part]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
