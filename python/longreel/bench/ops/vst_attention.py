"""The benchmark of vst_attention: a chunk over a memory, against SDPA in its best forms."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.bench.case import Tensors
from longreel.bench.dense_rate import dense_attention
from longreel.bench.vst_case import VSTCase, VSTPeer
from longreel.measure.clock import Timed

_SHARPNESS = 2.0


def _heads_first(given: Tensors) -> Tensors:
    """Rows [1, R, H, D] -> [1, H, R, D]."""
    return given | {name: given[name].transpose(1, 2).contiguous() for name in ("q", "k", "v")}


def _one_cache(given: Tensors) -> Tensors:
    """Memory and chunk in one contiguous cache, and the mask over it: no byte is left to save."""
    own = _heads_first(given)
    made = {"q": own["q"]} | {name: torch.cat([own[f"mem_{name}"], own[name]], 2) for name in ("k", "v")}
    rows, keys = made["q"].shape[2], made["k"].shape[2]
    device = made["q"].device
    mask = torch.arange(keys, device=device) <= torch.arange(keys - rows, keys, device=device)[:, None]
    return made | {"mask": mask}


def _over_one_cache(given: Tensors) -> Tensors:
    q, k, v = (given[t] for t in "qkv")
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=given["mask"], enable_gqa=True)
    return {"out": out.transpose(1, 2)}


def _split(given: Tensors) -> Tensors:
    """Memory and chunk by a call each, merged by LSE: heads that share keys fold into rows over the memory."""
    q, k, v = (given[t] for t in "qkv")
    heads, rows, width = q.shape[1:]
    kv_heads = k.shape[1]
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    of_memory, memory_lse = flash(q.reshape(1, kv_heads, -1, width), given["mem_k"], given["mem_v"], 0.0, False)
    own_k, own_v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
    of_chunk, chunk_lse = flash(q, own_k, own_v, 0.0, True)
    # torch gives [1, rows, heads] or [1, heads, rows]
    memory_lse, chunk_lse = (
        lse if lse.shape[1] == out.shape[1] else lse.transpose(1, 2)
        for lse, out in ((memory_lse, of_memory), (chunk_lse, of_chunk))
    )
    weight = torch.sigmoid(chunk_lse - memory_lse.reshape(1, heads, rows))[..., None]
    merged = torch.lerp(of_memory.reshape(q.shape).float(), of_chunk.float(), weight)
    return {"out": merged.to(q.dtype).transpose(1, 2)}


def _published(given: Tensors) -> Tensors:
    """Concatenate, expand over heads, additive mask. (The rotation of everything, which is published too, is left out.)"""
    q, group = given["q"], given["q"].shape[1] // given["k"].shape[1]
    keys, values = (torch.cat([given[f"mem_{t}"], given[t]], 2).repeat_interleave(group, 1) for t in "kv")
    rows, count = q.shape[2], keys.shape[2]
    mask = q.new_full((rows, count), torch.finfo(q.dtype).min).triu(count - rows + 1)
    return {"out": F.scaled_dot_product_attention(q, keys, values, attn_mask=mask).transpose(1, 2)}


class VSTAttentionCase(VSTCase):
    """Rotated rows of a chunk over an exactly full memory."""

    PEERS: ClassVar = {
        "strong": VSTPeer("SDPA by memory and chunk, merged by LSE", _split, _heads_first),
        "contiguous": VSTPeer(
            "SDPA with a mask over one cache, laid out before the clock starts", _over_one_cache, _one_cache
        ),
        "published": VSTPeer("concatenated, expanded over heads, masked", _published, _heads_first),
    }

    @property
    def dense(self) -> tuple[Timed, float]:
        return dense_attention(self.shape.heads, self.shape.head_dim, self.dtype, self.device, False)

    def reference(self, dtype: torch.dtype, tensors: Tensors) -> Tensors:
        """A key head at a time: the scores of all would be more than the reference holds."""
        group, parts = self.shape.heads // self.shape.kv_heads, list[Tensor]()
        for head in range(self.shape.kv_heads):
            own, queries = slice(head, head + 1), slice(head * group, (head + 1) * group)
            cut = {"q": tensors["q"][:, :, queries], "mem_len": tensors["mem_len"]}
            cut |= {name: tensors[name][:, :, own] for name in ("k", "v")}
            cut |= {name: tensors[name][:, own] for name in ("mem_k", "mem_v")}
            parts.append(super().reference(dtype, cut)["out"])
        return {"out": torch.cat(parts, 2)}

    @property
    def results(self) -> tuple[str, ...]:
        return ("out",)

    def inputs(self, normal: Callable[..., Tensor], angles: Callable[[int, int], Tensors]) -> Tensors:
        s, rows = self.shape, self.layout.length
        made = {"q": _SHARPNESS * normal(1, rows, s.heads, s.head_dim)}
        made |= {name: normal(1, rows, s.kv_heads, s.head_dim) for name in ("k", "v")}
        made |= {name: normal(1, s.kv_heads, s.entries, s.head_dim) for name in ("mem_k", "mem_v")}
        return made | {"mem_len": self.mem_len}


CASE = VSTAttentionCase
