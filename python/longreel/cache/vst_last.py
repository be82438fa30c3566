"""What the last two layers of a chunk still owe a VSTCache, where nobody reads their rows: keys and values of VST tokens."""

from functools import lru_cache

import torch
from torch import Tensor

from longreel.cache.vst import VSTCache
from longreel.cache.vst_step import Step
from longreel.layout import PlannedLayout, VideoLayout
from longreel.layout.part import planned_vst_rows
from longreel.ops._vst_append_ import vst_append_
from longreel.ops._vst_attention import vst_attention
from longreel.ops._vst_rotate import vst_rotate
from longreel.rotary import rotated


def store(cache: VSTCache, layer: int, k: Tensor, v: Tensor, backend: str | None = None) -> None:
    """Inside `append`, a layer's keys, not rotated, and values [B, n, Hkv, D] of the VST tokens: all that it adds."""
    step, own = _step(cache), cache.layers[layer]
    count = step.cached[1]
    if k.shape[1] != count:
        raise ValueError(f"the chunk has {count} VST tokens, k has {k.shape[1]}")
    memory = own.memory(count, k, v)
    length, _ = cache._length_tensors(k)
    cos, sin = cache._angles(k, cache.capacity)
    vst_append_(memory[0], memory[1], length, k, v, cos, sin, backend=backend)
    own.hold(memory, own.video_tokens + count)


def attend_vst(cache: VSTCache, layer: int, q: Tensor, k: Tensor, v: Tensor, backend: str | None = None) -> Tensor:
    """`VSTCache.attend` for the queries of VST tokens alone.

    q: [B, n, H, D] of the VST tokens; k, v: [B, R, Hkv, D] of all rows grouped [raw | VST], not rotated -> [B, n, H, D].
    """
    step, vst = _step(cache), q.shape[1]
    store(cache, layer, k[:, -vst:], v[:, -vst:], backend)
    # Queries are turned where they stand; the op takes as many of them as keys.
    _, moved_k, moved_v = vst_rotate(k, k, v, step.cos, step.sin, step.plan, backend=backend)
    place = step.plan.bounds[0, -vst:, 1].long() - 1
    wide = torch.promote_types(q.dtype, torch.float32)
    q = rotated(q.to(wide), *(t[place][:, None].to(wide) for t in (step.cos, step.sin))).to(q.dtype)
    memory, (length, _) = cache.layers[layer], cache._length_tensors(k)
    none = torch.zeros_like(length)
    plan = _vst_rows(step.plan.layout, q.device)
    out: Tensor = vst_attention(
        q, moved_k, moved_v, memory.keys, memory.values, length, plan, k_before=none, backend=backend
    )
    return out


def one_chunk(cache: VSTCache) -> bool:
    """Whether the step that runs is a chunk alone, which `attend_vst` and `store` are for."""
    step = cache._step
    return step is not None and [segment.kind for segment in step.segments] == ["vst"]


def _step(cache: VSTCache) -> Step:
    if cache._step is None or not one_chunk(cache):
        raise ValueError("only a chunk that runs alone leaves rows out: call this inside append")
    return cache._step


@lru_cache(maxsize=16)
def _vst_rows(layout: VideoLayout, device: torch.device) -> PlannedLayout:
    return planned_vst_rows(layout, device)
