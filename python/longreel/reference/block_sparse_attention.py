"""block_sparse_attention by its definition: a softmax over two key ranges per row, through a dense mask (small sizes)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from longreel.layout import PlannedLayout, VideoLayout, global_index
from longreel.reference.case import BadCase, Case, Inputs, normal

DIFFERENTIABLE = ("q", "k", "v", "global_k", "global_v")
# Gradients that one pass over the keys makes: who asks for one gets both.
GRADIENTS_TOGETHER = (("k", "v"), ("global_k", "global_v"))
LIMIT = 1 << 28


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    global_k: Tensor | None,
    global_v: Tensor | None,
    bounds: Tensor,
    global_index: Tensor,
    start: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """q [B, Sq, H, D], k and v [B, Sk, Hkv, D] -> out [B, Sq, H, D], lse [B, H, Sq] (natural log); computed in their dtype.

    bounds [B, Sq, 4] is lo, hi, glo, ghi: the row sees K[lo : hi) and G[glo : ghi), without keys before start [B]. Key g of G
    is global_k[:, g], by default key global_index[b, g] of k, v (-1 pads). Layout tensors of one sample serve any batch. A
    row that sees nothing gives 0, lse -inf, and zero gradient. Head h reads key head h // (H / Hkv).
    """
    batch, queries, heads, _ = q.shape
    elements = batch * heads * queries * (k.shape[1] + global_index.shape[1])
    if elements > LIMIT:
        raise ValueError(f"block_sparse_attention: the reference would hold {elements} scores, it stops at {LIMIT}")
    # [B, 1, Sq, Sk + G]
    mask = visible(k.shape[1], bounds, global_index, start)[:, None]
    # [B, G, Hkv, D]
    at = global_index.long().clamp(min=0)[..., None, None].expand(batch, -1, *k.shape[2:])
    global_k = k.gather(1, at) if global_k is None else global_k
    global_v = v.gather(1, at) if global_v is None else global_v
    # Rows that see nothing and keys that no row sees may hold anything, NaN too.
    q = q.masked_fill(~mask[:, 0].any(2)[..., None, None], 0)
    near_seen, far_seen = mask[:, 0].any(1)[..., None, None].split([k.shape[1], global_k.shape[1]], 1)
    k, v = (t.masked_fill(~near_seen, 0) for t in (k, v))
    global_k, global_v = (t.masked_fill(~far_seen, 0) for t in (global_k, global_v))
    # [B, keys, H, D] each
    k, v, global_k, global_v = (t.repeat_interleave(heads // k.shape[2], 2) for t in (k, v, global_k, global_v))
    # [B, H, Sq, Sk + G]
    scores = torch.cat([torch.einsum("bqhd,bkhd->bhqk", q, keys) for keys in (k, global_k)], -1) * scale
    # A row without keys takes a softmax over zeros that `some` removes: no NaN, no gradient.
    some = mask.any(-1, keepdim=True)
    scores = torch.where(some, scores.masked_fill(~mask, -torch.inf), 0.0)
    near, far = (scores.softmax(-1) * some).split([k.shape[1], global_k.shape[1]], -1)
    out = torch.einsum("bhqk,bkhd->bqhd", near, v) + torch.einsum("bhqk,bkhd->bqhd", far, global_v)
    return out, scores.logsumexp(-1).where(some[..., 0], -torch.inf)


def visible(keys: int, bounds: Tensor, global_index: Tensor, start: Tensor) -> Tensor:
    """bool [B, Sq, keys + G]: what every row sees of K, then of G."""
    # [B, Sq, 1] each
    lo, hi, glo, ghi = bounds.unsqueeze(-1).unbind(2)
    key = torch.arange(keys, device=bounds.device)
    place = torch.arange(global_index.shape[1], device=bounds.device)
    first = start[:, None, None]
    near = (lo <= key) & (key < hi) & (key >= first)
    far = (glo <= place) & (place < ghi) & (global_index[:, None] >= first)
    batch = max(near.shape[0], far.shape[0])
    return torch.cat([near.expand(batch, -1, -1), far.expand(batch, -1, -1)], -1)


def layout_case(
    name: str,
    layout: Callable[[int], VideoLayout | PlannedLayout],
    *,
    batch: int = 2,
    heads: tuple[int, int] = (4, 2),
    width: int = 16,
    beyond: int = 0,
    sharp: float = 1.0,
    far: bool = False,
    frames: int = 3,
    fast: bool = False,
    **options: Any,
) -> Case:
    """A case of q, k, v under `layout(frames)`. `beyond`: keys after those of the layout; `far`: global_k and global_v are
    given; `heads`: (H, Hkv). Scores reach about 4 * `sharp`."""

    def make(generator: Generator, frames: int) -> Inputs:
        made = layout(frames)
        whole = made.layout if isinstance(made, PlannedLayout) else made
        inputs: Inputs = {"q": sharp * normal(generator, batch, whole.queries, heads[0], width)}
        for key in ("k", "v"):
            inputs[key] = normal(generator, batch, whole.keys + beyond, heads[1], width)
        if far:
            places = global_index(whole).shape[1]
            inputs |= {key: normal(generator, batch, places, heads[1], width) for key in ("global_k", "global_v")}
        return inputs | {"layout": made, **options}

    return Case(name, make, frames, fast)


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

    def cut(layout: VideoLayout, rows: int) -> VideoLayout:
        return layout.rows(layout.length - rows, layout.length)

    return [
        layout_case("voco-causal", voco, fast=True, **lse),
        layout_case("vst-grouped-far", lambda f: vst(f).grouped(), far=True, fast=True, **lse),
        layout_case("left-padded", samples, batch=3, fast=True),
        layout_case("left-padded-lse", samples, batch=3, **lse),
        layout_case("right-padded-far", lambda f: samples(f, "right"), batch=3, far=True, **lse),
        layout_case("start", lambda f: voco(f).to("cpu").with_start(torch.tensor([60, 0], dtype=torch.int32)), **lse),
        layout_case(
            "start-far",
            lambda f: vst(f).to("cpu").with_start(torch.tensor([7, 70], dtype=torch.int32)),
            far=True,
            **lse,
        ),
        layout_case(
            "all-padding", lambda f: voco(f).to("cpu").with_start(torch.tensor([400, 0], dtype=torch.int32)), **lse
        ),
        layout_case("independent", lambda f: voco(f, mode="independent"), heads=(3, 3), **lse),
        layout_case("image", lambda f: voco(1, vision=150), heads=(6, 2), **lse),
        layout_case("prefix-seen-by-all", lambda f: voco(f, prefix_visible_to="all", text_sees_prefix=True), frames=5),
        layout_case("vst", vst, heads=(8, 1), **lse),
        layout_case("vst-far", vst, far=True, frames=4),
        layout_case("packed", packed, **lse),
        layout_case("packed-grouped", lambda f: packed(f).grouped(), **lse),
        layout_case("causal", lambda f: VideoLayout.causal(67 * f), heads=(2, 2), **lse),
        layout_case("window-and-sinks", lambda f: VideoLayout.sliding_window(70 * f, 33, 5), **lse),
        layout_case("decode-one-row", lambda f: cut(voco(f).extend(1), 1), frames=9, beyond=40, **lse),
        layout_case("decode-rows", lambda f: cut(voco(f).extend(9), 16), frames=7, beyond=3, **lse),
        layout_case("decode-far", lambda f: cut(vst(f).extend(2), 2), far=True, frames=7, **lse),
        layout_case("decode-left-padded", lambda f: cut(samples(f).extend(1), 1), batch=3, frames=5, **lse),
        layout_case("middle-rows", lambda f: voco(f).rows(40, 120), frames=4, beyond=1, **lse),
        layout_case("sharp", voco, sharp=5.0, width=64, **lse),
        layout_case("sharpest", vst, sharp=50.0, width=64, far=True, **lse),
        *(
            layout_case(f"head-size-{width}", lambda f: voco(2), width=width, **one_head, **lse)
            for width in (1, 3, 17, 33, 64, 72, 80, 96, 112, 128, 200, 256)
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
    far = torch.zeros(2, 2, 2, 8)
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
            "head size D is 0; allowed are 1 to 256",
            q=q[..., :0],
            k=k[..., :0],
            v=k[..., :0],
        ),
        bad(
            "head-size-257",
            ValueError,
            "head size D is 257",
            **dict.fromkeys(("q", "k", "v"), torch.zeros(2, 10, 1, 257)),
        ),
        bad("key-counts", ValueError, "k has 10 keys and v has 9", v=k[:, :9]),
        bad("rows", ValueError, "the layout has 10 query rows and q has 9", q=q[:, :9]),
        bad("keys", ValueError, "speaks of 10 keys and k has 9", k=k[:, :9], v=k[:, :9]),
        bad("samples", ValueError, "the layout has 3 samples and q has 2", layout=VideoLayout.batch([layout] * 3)),
        bad("not-a-layout", TypeError, "layout is a Tensor; allowed: VideoLayout", layout=q),
        bad("plan-elsewhere", ValueError, "planned for meta and q is on", layout=layout.to("meta")),
        bad("half-of-the-global-keys", ValueError, "global_k is given without global_v", global_k=far),
        bad(
            "global-keys",
            ValueError,
            "layout has 2 global keys and global_k has 1",
            global_k=far[:, :1],
            global_v=far[:, :1],
        ),
        bad("global-values", ValueError, "global_k has 2 keys and global_v has 1", global_k=far, global_v=far[:, :1]),
    ]
