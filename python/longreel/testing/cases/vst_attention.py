"""Corners of vst_attention."""

from typing import Any

import torch

from longreel.layout import VideoLayout
from longreel.testing.cases.case import BadCase, Case, shorter
from longreel.testing.cases.memory import chunk, chunks, ints, memory_case, one_key_head, prefixed


def text(rows: int) -> VideoLayout:
    return VideoLayout.causal(rows)


def cases() -> list[Case]:
    lse: dict[str, Any] = {"return_lse": True}
    return [
        memory_case("chunk", chunk, fast=True, **lse),
        memory_case("chunks", chunks, fast=True, **lse),
        memory_case("chunks-of-other-lengths", chunks, entries=(0, 130, 71), fast=True),
        memory_case("prefix-chunks-text", prefixed, entries=(0, 0), **lse),
        memory_case("left-padded", lambda f: text(5 * f), entries=(64, 90), start=(3, 80), **lse),
        memory_case("nothing-left", lambda f: text(f), entries=(6, 40), start=(9, 40), **lse),
        memory_case("text-of-a-question", lambda f: text(f + 20), before=(40, 17), **lse),
        memory_case("one-row", lambda f: text(1), entries=(300,) * 4, heads=(8, 2), **lse),
        memory_case("one-row-of-a-question", lambda f: text(1), entries=(200, 190), before=(3, 66), start=(0, 7)),
        memory_case("few-rows", lambda f: text(f), entries=(130,), heads=(8, 1), width=64, **lse),
        memory_case("no-memory", chunk, entries=(0, 0), room=0, **lse),
        memory_case("one-head", chunks, heads=(3, 3), entries=(33, 1)),
        memory_case("sharp", chunks, sharp=5.0, width=64, **lse),
        *(
            memory_case(f"head-size-{width}", chunk, width=width, heads=(2, 1), entries=(80,))
            for width in (1, 17, 96, 128, 256)
        ),
        memory_case("scale", chunk, scale=-0.3),
        memory_case("no-batch", chunk, entries=()),
        memory_case("no-rows", lambda f: text(0), **lse),
    ]


def interpreted() -> list[tuple[torch.dtype, Case]]:
    """One key head in float32, every head of the case in the others; two chunks of a group."""
    half = ("one-row-of-a-question", "left-padded")
    named = {case.name: case for case in cases()}
    return [
        *((torch.float32, shorter(case, 1 + case.name.startswith("chunks"), one_key_head)) for case in cases()),
        *((torch.float16, shorter(named[name])) for name in half),
        (torch.bfloat16, shorter(named["text-of-a-question"])),
    ]


def gpu_cases() -> list[Case]:
    return [
        memory_case(
            "chunk",
            lambda f: VideoLayout.vst(ratio=[(144 * f, 8)]).grouped(),
            entries=(4000,),
            heads=(28, 4),
            width=128,
            frames=10,
        ),
        memory_case(
            "decode", lambda f: VideoLayout.causal(1), entries=(18000, 900), before=(300, 7), heads=(28, 4), width=128
        ),
    ]


def bad_cases() -> list[BadCase]:
    layout = VideoLayout.vst(ratio=[(8, 4)]).grouped()
    q, k = torch.zeros(2, 10, 4, 8), torch.zeros(2, 10, 2, 8)
    memory = torch.zeros(2, 2, 16, 8)
    good = {"q": q, "k": k, "v": k, "mem_k": memory, "mem_v": memory, "mem_len": ints(4, 4), "layout": layout}

    def bad(name: str, error: type[Exception], says: str, **changed: Any) -> BadCase:
        return BadCase(name, good | changed, error, says)

    return [
        bad("integers", TypeError, "k is torch.int64; allowed: float32", k=k.long()),
        bad("dtypes", TypeError, "q is torch.float64 and k is torch.float32", q=q.double()),
        bad("devices", ValueError, "v is on meta and k is on", v=k.to("meta")),
        bad("dimensions", ValueError, r"k must be \[B, R, Hkv, D\], given \(10, 2, 8\)", k=k[0]),
        bad("values", ValueError, r"v \(2, 10, 1, 8\) must have the shape of k", v=k[:, :, :1]),
        bad("rows", ValueError, r"q must be \[B, R, H, D\] with B, R and D of k", q=q[:, :9]),
        bad("groups", ValueError, "q has 3 heads and k has 2: H must be a multiple", q=q[:, :, :3]),
        bad("memory-dtype", TypeError, "mem_k is torch.bfloat16 and k is torch.float32", mem_k=memory.bfloat16()),
        bad("memory-heads", ValueError, r"mem_v must be \[2, 2, capacity, 8\], given \(2, 1, 16, 8\)", mem_v=memory[:, :1]),
        bad("capacities", ValueError, "mem_k has room for 16 entries and mem_v for 15", mem_v=memory[:, :, 1:]),
        bad("lengths", ValueError, r"mem_len is int32 \[2\]; given int64 \[2\]", mem_len=ints(4, 4).long()),
        bad("start", ValueError, r"mem_start is int32 \[2\]; given int32 \[1\]", mem_start=ints(0)),
        bad("layout-rows", ValueError, "the layout has 9 query rows", layout=VideoLayout.causal(9)),
        bad("voco", ValueError, "one whole Video-XL or text", layout=VideoLayout.voco(frames=1, vision=7, voco=1, text=2)),
        bad("packed", ValueError, "one whole Video-XL or text", layout=VideoLayout.packed([VideoLayout.causal(5)] * 2)),
        bad("window", ValueError, "without padding or window", layout=VideoLayout.sliding_window(10, 3)),
        bad("chunk-behind-keys", ValueError, "only text rows stand behind other keys", k_before=ints(0, 0)),
        bad("no-room", ValueError, "they do not fit a memory of 1", mem_k=memory[:, :, :1], mem_v=memory[:, :, :1]),
        bad("head-size", ValueError, "the head size D is 0; allowed are 1 to 256", **{
            name: tensor[..., :0] for name, tensor in good.items() if isinstance(tensor, torch.Tensor) and tensor.dim() == 4
        }),
    ]  # fmt: skip
