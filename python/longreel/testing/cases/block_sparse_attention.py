"""Corners of block_sparse_attention."""

from typing import Any

import torch

from longreel.layout import PlannedLayout, VideoLayout
from longreel.testing.cases.case import BadCase, Case, shorter
from longreel.testing.cases.layouts import layout_case, one_key_head

# Each with a word of the reason.
REFUSED = {
    "flash": {
        "start": "with_start",
        "start-global": "with_start",
        "all-padding": "with_start",
        "window-and-sinks": "sliding windows",
        "blocks-window": "sliding windows",
        "packed-on-the-device": "planned on the device",
        "vst-grouped-global": "position order",
        "packed-grouped": "position order",
        "scale-zero": "above 0",
        "scale-negative": "above 0",
    }
}
HEADS: dict[str, Any] = {"batch": 1, "heads": (8, 2), "width": 128, "return_lse": True}


def cases() -> list[Case]:
    lse: dict[str, Any] = {"return_lse": True}
    one_head: dict[str, Any] = {"heads": (1, 1), "batch": 1}

    def voco(frames: int, **more: Any) -> VideoLayout:
        counts: dict[str, Any] = {"vision": 50, "voco": 2, "text": 9, "prefix": 3, "mode": "causal"}
        return VideoLayout.voco(frames=frames, **counts | more)

    def vst(frames: int) -> VideoLayout:
        return VideoLayout.vst(visual=60 * frames - 7, chunk=60, ratio=4, prefix=5, text=9)

    def packed(frames: int) -> VideoLayout:
        return VideoLayout.packed([voco(frames, prefix=0), VideoLayout.causal(21), vst(1), voco(1)])

    def samples(frames: int, side: Any = "left") -> VideoLayout:
        return VideoLayout.batch([voco(frames), voco(frames, mode="independent", voco=1), vst(1)], side)

    def pictures(frames: int, one: bool = False, **more: Any) -> VideoLayout:
        ids = [number for f in range(frames) for number in (-1, -1, -1, *[0 if one else f] * 37)]
        return VideoLayout.blocks([*ids, *[-1] * 9], **more)

    def on_device(frames: int) -> PlannedLayout:
        return VideoLayout.from_cu_seqlens(torch.tensor([0, 9, 9, 50 * frames]), 50 * frames + 7)

    def cut(layout: VideoLayout, rows: int) -> VideoLayout:
        return layout.rows(layout.length - rows, layout.length)

    return [
        layout_case("voco-causal", voco, fast=True, **lse),
        layout_case("vst-grouped-global", lambda f: vst(f).grouped(), own_globals=True, fast=True, **lse),
        layout_case("left-padded", samples, batch=3, fast=True),
        layout_case("left-padded-lse", samples, batch=3, **lse),
        layout_case("right-padded-global", lambda f: samples(f, "right"), batch=3, own_globals=True, **lse),
        layout_case("start", lambda f: voco(f).to("cpu").with_start(torch.tensor([60, 0], dtype=torch.int32)), **lse),
        layout_case(
            "start-global",
            lambda f: vst(f).to("cpu").with_start(torch.tensor([7, 70], dtype=torch.int32)),
            own_globals=True,
            **lse,
        ),
        layout_case(
            "all-padding", lambda f: voco(f).to("cpu").with_start(torch.tensor([400, 0], dtype=torch.int32)), **lse
        ),
        layout_case("independent", lambda f: voco(f, mode="independent"), heads=(3, 3), **lse),
        layout_case("image", lambda f: voco(1, vision=150), heads=(6, 2), **lse),
        layout_case(
            "prefix-visible-to-all", lambda f: voco(f, prefix_visible_to="all", text_sees_prefix=True), frames=5
        ),
        layout_case("vst", vst, heads=(8, 1), **lse),
        layout_case("vst-global", vst, own_globals=True, frames=4),
        layout_case("packed", packed, **lse),
        layout_case("packed-grouped", lambda f: packed(f).grouped(), **lse),
        layout_case("causal", lambda f: VideoLayout.causal(67 * f), heads=(2, 2), **lse),
        layout_case("window-and-sinks", lambda f: VideoLayout.sliding_window(70 * f, 33, 5), **lse),
        layout_case("blocks", pictures, **lse),
        layout_case("blocks-window", lambda f: pictures(f, window=40), heads=(2, 1), **lse),
        layout_case("blocks-in-parts", lambda f: pictures(f, one=True), own_globals=True, **lse),
        layout_case("blocks-alone", lambda f: pictures(f, causal=False), heads=(2, 2), **lse),
        layout_case("packed-on-the-device", on_device, **lse),
        layout_case("decode-one-row", lambda f: cut(voco(f).extend(1), 1), frames=9, beyond=40, **lse),
        layout_case("decode-rows", lambda f: cut(voco(f).extend(9), 16), frames=7, beyond=3, **lse),
        layout_case("decode-global", lambda f: cut(vst(f).extend(2), 2), own_globals=True, frames=7, **lse),
        layout_case("decode-left-padded", lambda f: cut(samples(f).extend(1), 1), batch=3, frames=5, **lse),
        layout_case("middle-rows", lambda f: voco(f).rows(40, 120), frames=4, beyond=1, **lse),
        layout_case("sharp", voco, sharp=5.0, width=64, **lse),
        layout_case("sharpest", vst, sharp=50.0, width=64, own_globals=True, **lse),
        *(
            layout_case(f"head-size-{width}", lambda f: voco(2), width=width, **one_head, **lse)
            for width in (1, 3, 17, 33, 64, 72, 80, 88, 96, 112, 128, 200, 256, 512)
        ),
        layout_case("scale-one", voco, scale=1.0, sharp=0.3),
        layout_case("scale-zero", voco, scale=0.0, **lse),
        layout_case("scale-negative", voco, scale=-0.3, **lse),
        layout_case("one-of-each", lambda f: VideoLayout.causal(1), width=1, **one_head, **lse),
        layout_case("no-batch", voco, batch=0, **lse),
        layout_case("no-rows", lambda f: voco(f).rows(9, 9), **lse),
        layout_case("no-keys", lambda f: VideoLayout.causal(0), **lse),
        layout_case("no-heads", voco, heads=(0, 1), **lse),
    ]


def bad_cases() -> list[BadCase]:
    layout = VideoLayout.voco(frames=2, vision=3, voco=1, text=2)
    q, k = torch.zeros(2, 10, 4, 8), torch.zeros(2, 10, 2, 8)
    two = torch.zeros(2, 2, 2, 8)
    good = {"q": q, "k": k, "v": k, "layout": layout}

    def bad(name: str, error: type[Exception], says: str, **changed: Any) -> BadCase:
        return BadCase(name, good | changed, error, says)

    return [
        bad("integers", TypeError, "q is torch.int64; allowed: float32", q=q.long()),
        bad("dtypes", TypeError, "q is torch.float32 and v is torch.bfloat16", v=k.bfloat16()),
        bad("devices", ValueError, "q is on .* and k is on meta", k=k.to("meta")),
        bad("dimensions", ValueError, r"k must be \[B, Sk, Hkv, D\], given \(10, 2, 8\)", k=k[0]),
        bad("batches", ValueError, r"\(2, 10, 4, 8\) and v \(1, 10, 2, 8\) must have one batch size", v=k[:1]),
        bad("head-sizes", ValueError, "must have one batch size and one head size", k=k[..., :4]),
        bad("head-counts", ValueError, "k has 2 heads and v has 1", v=k[:, :, :1]),
        bad("groups", ValueError, "q has 3 heads and k has 2: H must be a multiple", q=q[:, :, :3]),
        bad("no-key-heads", ValueError, "k has 0: H must be a multiple", k=k[:, :, :0], v=k[:, :, :0]),
        bad(
            "head-size-0",
            ValueError,
            "head size D is 0; allowed are 1 to 512",
            q=q[..., :0],
            k=k[..., :0],
            v=k[..., :0],
        ),
        bad(
            "head-size-513",
            ValueError,
            "head size D is 513",
            **dict.fromkeys(("q", "k", "v"), torch.zeros(2, 10, 1, 513)),
        ),
        bad("key-counts", ValueError, "k has 10 keys and v has 9", v=k[:, :9]),
        bad("rows", ValueError, "the layout has 10 query rows and q has 9", q=q[:, :9]),
        bad("keys", ValueError, "layout expects at least 10 keys, k has 9", k=k[:, :9], v=k[:, :9]),
        bad("samples", ValueError, "the layout has 3 samples and q has 2", layout=VideoLayout.batch([layout] * 3)),
        bad("not-a-layout", TypeError, "layout is a Tensor; allowed: VideoLayout", layout=q),
        bad("plan-elsewhere", ValueError, "planned for meta and q is on", layout=layout.to("meta")),
        bad("half-of-the-global-keys", ValueError, "global_k is given without global_v", global_k=two),
        bad(
            "global-keys",
            ValueError,
            "layout has 2 global keys and global_k has 1",
            global_k=two[:, :1],
            global_v=two[:, :1],
        ),
        bad(
            "global-values",
            ValueError,
            "global_k has 2 keys and global_v has 1",
            global_k=two,
            global_v=two[:, :1],
        ),
    ]


def real_voco(frames: int) -> VideoLayout:
    return VideoLayout.voco(frames=frames, vision=576, voco=2, text=64, prefix=35, mode="causal")


def _vst(frames: int) -> VideoLayout:
    return VideoLayout.vst(visual=144 * frames, chunk=1440, ratio=8, prefix=14, text=70)


def _decoding(frames: int) -> VideoLayout:
    whole = VideoLayout.vst(visual=144 * frames, chunk=1440, ratio=2, prefix=14, text=3000)
    return whole.rows(whole.length - 4, whole.length)


def _samples(frames: int) -> VideoLayout:
    return VideoLayout.batch([real_voco(frames), _vst(frames), VideoLayout.causal(700)])


def gpu_cases() -> list[Case]:
    return [
        layout_case("voco", real_voco, frames=5, **HEADS),
        layout_case("voco-sharp", real_voco, frames=3, sharp=5.0, **HEADS),
        layout_case("vst-global", lambda frames: _vst(frames).grouped(), frames=20, own_globals=True, **HEADS),
        layout_case("left-padded", _samples, frames=2, **HEADS | {"batch": 3}),
        layout_case("window", lambda frames: VideoLayout.sliding_window(600 * frames, 512, 4), frames=5, **HEADS),
        layout_case("decode", _decoding, frames=100, beyond=50, **HEADS),
        layout_case("decode-global", _decoding, frames=100, own_globals=True, **HEADS),
        *(
            layout_case(f"head-size-{width}", real_voco, frames=2, **HEADS | {"width": width})
            for width in (64, 80, 96, 256)
        ),
    ]


def interpreted() -> list[tuple[torch.dtype, Case]]:
    """One frame; one key head in float32, every head of the case in the others."""
    single = (
        "vst-grouped-global",
        "left-padded-lse",
        "start",
        "start-global",
        "all-padding",
        "packed-grouped",
        "window-and-sinks",
        "sharpest",
        "scale-zero",
        "scale-negative",
        "head-size-1",
        "head-size-72",
        "head-size-80",
        "head-size-112",
        "head-size-256",
        "blocks",
        "blocks-window",
        "blocks-in-parts",
        "packed-on-the-device",
        "one-of-each",
        "no-batch",
        "no-rows",
        "no-keys",
        "no-heads",
    )
    half = (
        "voco-causal",
        "decode-rows",
        "decode-global",
        "decode-left-padded",
        "head-size-33",
        "head-size-96",
        "head-size-128",
    )
    named = {case.name: case for case in cases()}
    return [
        *((torch.float32, shorter(named[name], changed=one_key_head)) for name in single),
        *((torch.float16, shorter(named[name])) for name in half),
        (torch.bfloat16, shorter(named["decode-one-row"])),
    ]
