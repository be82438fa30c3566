"""Every Triton op in every form, of lengths that are drawn: what is launched on the `meta` device, where nothing runs.

What is no length is fixed: heads, channels, the queries of a Q-Former, the grid of a tower's frames, the ratio of pooling. A form
ends where a kernel has another tile by design: up to 16 rows beside more, several prompts beside one.
"""

import random
from collections.abc import Callable, Mapping

import torch
from longreel.triton_kernels.adaptive_pool import adaptive_pool, adaptive_pool_backward
from longreel.triton_kernels.block_sparse_attention import (
    block_sparse_attention,
    block_sparse_attention_backward,
    block_sparse_attention_gluon,
)
from longreel.triton_kernels.compress_frames import compress_frames, compress_frames_backward
from longreel.triton_kernels.context_attention import context_attention, context_attention_backward
from longreel.triton_kernels.qformer_attention import qformer_attention, qformer_attention_backward
from longreel.triton_kernels.token_density import token_density
from longreel.triton_kernels.token_scores import token_scores
from longreel.triton_kernels.vst_append_ import vst_append_
from longreel.triton_kernels.vst_attention import vst_attention
from longreel.triton_kernels.vst_rotate import vst_rotate, vst_rotate_backward
from torch import Tensor

from longreel.layout import VideoLayout
from longreel.layout.planned import TILES

HEADS, KV_HEADS, WIDTH, CHANNELS = 32, 4, 64, 64
POOL, BEHIND_CLASS_TOKEN = (0, 16, 16, 16, 4, 4), (1, 16, 16, 16, 4, 4)


class Lengths:
    """Lengths from `least` to `most`: the least, odd ones, multiples of 16 where there are any, any."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def __call__(self, least: int, most: int) -> int:
        found = self._random.randint(least, most)
        wide = found // 16 * 16
        odd = found | 1
        return self._random.choice((least, odd if odd <= most else found, wide if wide >= least else found, found))


Form = Callable[[Lengths], object]


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def of_plan(layout: VideoLayout) -> tuple[object, ...]:
    """The plan's tensors and tile, as the op takes them."""
    plan = layout.to("cpu", tile=TILES["cuda"])
    tensors = (
        plan.global_index, plan.start, plan.bounds, plan.tiles, plan.order, plan.kv_blocks, plan.query_ranges, plan.kv_order,
    )  # fmt: skip
    return *(t.to("meta") for t in tensors), *plan.tile, 0.1


def rows_of(layout: VideoLayout, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    q = empty(batch, layout.queries, HEADS, WIDTH)
    return q, *(empty(batch, layout.keys, KV_HEADS, WIDTH) for _ in range(2))


def video(n: Lengths, frames: int = 9) -> VideoLayout:
    """A video whose frames know those before them."""
    sizes = {"frames": n(2, frames), "vision": n(2, 100), "text": n(17, 300)}
    return VideoLayout.voco(**sizes, voco=3, prefix=2, mode="causal")


def attention(layout: VideoLayout, batch: int, own_global: bool = False) -> None:
    """Forward and backward."""
    tables = of_plan(layout)
    given = rows_of(layout, batch)
    places = tables[0].shape[1]
    own = (empty(batch, places, KV_HEADS, WIDTH) if own_global else None for _ in range(2))
    given = (*given, *own, *((None, *tables[1:]) if own_global else tables))
    if own_global:
        given = (*given[:5], tables[0], *given[6:])
    out, lse = block_sparse_attention(*given)
    block_sparse_attention_backward(out, lse, *given, out, lse, 1, 1, 1)


def last_rows(n: Lengths, rows: int) -> None:
    layout = video(n)
    attention(layout.rows(layout.queries - rows, layout.queries), n(1, 4))


def samples(n: Lengths) -> None:
    """A batch whose samples have layouts of their own."""
    layouts = [video(n, frames=4) for _ in range(n(2, 3))]
    attention(VideoLayout.batch(layouts), len(layouts))


def on_hopper(n: Lengths) -> None:
    layout = video(n)
    block_sparse_attention_gluon(*rows_of(layout, n(1, 4)), None, None, *of_plan(layout))


def compressed(frames: int, prompts: int, queries: int, geometry: tuple[int, ...], masked: bool) -> None:
    query, patches = empty(prompts, 1, queries, CHANNELS), empty(frames, 256 + geometry[0], CHANNELS)
    mask = empty(prompts, 1, queries, dtype=torch.bool) if masked else None
    context, content, weights, lse = compress_frames(query, patches, mask, 0.1, *geometry)
    compress_frames_backward(context, content, weights, query, patches, mask, lse, 0.1, *geometry, 1, 1)


def context(sets: int, queries: int, patches: Tensor, cu_seqlens: Tensor | None = None) -> None:
    query = empty(1, sets, queries, CHANNELS)
    out, weights, lse = context_attention(query, patches, None, cu_seqlens, 0.1)
    context_attention_backward(out, weights, query, patches, None, cu_seqlens, lse, 0.1, 1, 1)


def own_queries(n: Lengths) -> None:
    frames = n(2, 400)
    context(frames, 32, empty(frames, n(33, 600), CHANNELS))


def packed_frames(n: Lengths) -> None:
    total = n(1, 20_000)
    context(1, 32, empty(total, CHANNELS), torch.linspace(0, total, n(1, 40) + 1).long())


def few_queries(batch: int, frames: int, per_frame: int, masked: bool) -> None:
    """Queries that all samples share; frames 0: keys without positions."""
    keys, size = max(frames, 1) * per_frame, HEADS * WIDTH
    query, w, bias = empty(1, 32, size), empty(size, 96), empty(size)
    mask = empty(batch, keys, dtype=torch.bool) if masked else None
    table = empty(frames, 96) if frames else None
    given = (query, empty(batch, keys, 96), w, w, bias, mask, table, per_frame, HEADS, 0.1)
    out, lse = qformer_attention(*given)
    qformer_attention_backward(out, *given, out, lse, 1, 1, 1, 1, 1, int(frames > 0))


def pooled(tokens: int, frames: int, window: tuple[int, ...], out_frames: int = 0, bilinear: int = 0) -> None:
    content = adaptive_pool(empty(frames, tokens, CHANNELS), *window, out_frames, bilinear)
    adaptive_pool_backward(content, tokens, *window, out_frames, bilinear, (), frames)


def over_time(n: Lengths) -> None:
    frames = n(1, 4000)
    pooled(256, frames, POOL, out_frames=n(1, frames))


def pictures(n: Lengths) -> None:
    """Each of a grid of its own, halved."""
    grids: list[int] = []
    for _ in range(n(1, 8)):
        height, width = n(16, 40), n(16, 40)
        grids += [n(1, 9), 2 * height, 2 * width, 1, height, width]
    total = sum(t * h * w for t, h, w in zip(grids[::6], grids[1::6], grids[2::6], strict=True))
    content = adaptive_pool(empty(total, CHANNELS), 0, 1, 0, 1, 0, 1, 0, 0, grids)
    adaptive_pool_backward(content, total, 0, 1, 0, 1, 0, 1, 0, 0, grids)


def scored(n: Lengths, before: bool) -> None:
    tokens = n(1, 600)
    query = empty(3, CHANNELS)
    token_scores(empty(n(1, 500), tokens, CHANNELS), query, empty(tokens, CHANNELS) if before else None, 0.1)


def rotated(n: Lengths) -> None:
    batch, rows = n(1, 3), n(1, 1500)
    q, k, v = (empty(batch, rows, heads, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS))
    table, bounds = empty(1, rows, WIDTH // 2, dtype=torch.float32), empty(1, rows, 4, dtype=torch.int32)
    vst_rotate(q, k, v, table, table, bounds)
    vst_rotate_backward(q, k, v, table, table, bounds, HEADS, KV_HEADS, 1, 1, 1)


def memory(n: Lengths, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    capacity = n(1, 20_000)
    return *(empty(batch, KV_HEADS, capacity, WIDTH) for _ in range(2)), empty(batch, dtype=torch.int32)


def appended(n: Lengths) -> None:
    batch, rows = n(1, 3), n(1, 200)
    k, table = empty(batch, rows, KV_HEADS, WIDTH), empty(n(1, 20_000), WIDTH // 2, dtype=torch.float32)
    vst_append_(*memory(n, batch), k, k, table, table)


def behind_memory(n: Lengths, layout: VideoLayout, own_keys: bool) -> None:
    """own_keys: rows behind keys of K that are no entries yet."""
    batch = n(1, 3)
    mem_k, mem_v, length = memory(n, batch)
    q, k, v = rows_of(layout, batch)
    plan = layout.to("cpu", tile=TILES["cuda"])
    tables = (t.to("meta") for t in (plan.bounds, plan.tiles, plan.order))
    before = length if own_keys else None
    vst_attention(q, k, v, mem_k, mem_v, length, None, before, *tables, *plan.tile, 0.1)


def odd_queries(n: Lengths) -> int:
    """Of a text; multiples of 16 are read in wider pieces, by code of their own."""
    return n(8, 15) * 2 + 1


FORMS: Mapping[str, Mapping[str, Form]] = {
    "adaptive_pool": {
        "averaged": lambda n: pooled(256, n(1, 4000), POOL),
        "interpolated": lambda n: pooled(729, n(1, 4000), (0, 27, 27, 27, 14, 14), bilinear=1),
        "over time": over_time,
        "packed pictures": pictures,
    },
    "block_sparse_attention": {
        "many rows": lambda n: attention(video(n), n(1, 4)),
        "one row": lambda n: last_rows(n, 1),
        "few rows": lambda n: last_rows(n, n(9, 16)),
        "global keys apart": lambda n: attention(video(n), n(1, 4), own_global=True),
        "samples of their own layouts": samples,
        "on Hopper": on_hopper,
    },
    "compress_frames": {
        "one prompt": lambda n: compressed(n(1, 4000), 1, 32, POOL, masked=False),
        "prompts of a text": lambda n: compressed(n(1, 400), n(5, 9), odd_queries(n), BEHIND_CLASS_TOKEN, masked=True),
    },
    "context_attention": {
        "frames": lambda n: context(1, 32, empty(n(1, 4000), n(33, 600), CHANNELS)),
        "queries of a text": lambda n: context(1, odd_queries(n), empty(n(1, 4000), n(33, 600), CHANNELS)),
        "queries of each frame": own_queries,
        "packed": packed_frames,
    },
    "qformer_attention": {
        # more than 512 keys, or frames with positions, are blocks of 128, and more than 512 rows of all samples another tile
        "an hour": lambda n: few_queries(n(1, 3), n(513, 4000), n(33, 64), masked=False),
        "of frames": lambda n: few_queries(n(17, 20), 0, n(513, 700), masked=True),
    },
    "token_density": {"tokens": lambda n: token_density(empty(n(1, 3000), CHANNELS))},
    "token_scores": {
        "a video": lambda n: scored(n, before=False),
        "behind a frame": lambda n: scored(n, before=True),
    },
    "vst_append_": {"rows": appended},
    "vst_attention": {
        "a chunk": lambda n: behind_memory(n, VideoLayout.vst(ratio=[(n(40, 180) * 8, 8)]).grouped(), own_keys=False),
        "one row": lambda n: behind_memory(n, VideoLayout.causal(1), own_keys=True),
        "rows of text": lambda n: behind_memory(n, VideoLayout.causal(n(300, 900)), own_keys=True),
    },
    "vst_rotate": {"rows": rotated},
}  # fmt: skip
