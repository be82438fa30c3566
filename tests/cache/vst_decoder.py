"""Video-XL's decoder written out on a state dict: what drives a VSTCache in its tests, and its training pass."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2Config

from longreel import VideoLayout, block_sparse_attention
from longreel.cache.vst import VSTCache
from longreel.layout import global_positions, query_positions
from longreel.ops._vst_project import vst_project
from longreel.ops._vst_rotate import vst_rotate
from longreel.rotary import rotary_tables, rotated


class Decoder:
    """Qwen2's maths on a state dict with weights of their own for VST rows; rows are grouped [raw | VST]."""

    def __init__(self, config: Qwen2Config, weights: dict[str, Tensor], backend: str | None = None) -> None:
        self.sizes, self.weights, self.backend = config, weights, backend
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads or 0
        width = config.hidden_size // self.heads
        self.inv_freq = 1.0 / (1e6 ** (torch.arange(0, width, 2).float() / width))

    def __call__(
        self, *, inputs_embeds: Tensor, past_key_values: Any, use_cache: bool = True, n_raw: int | None = None
    ) -> Tensor:
        """[B, R, E] -> [B, R, E]; `past_key_values.attend` is each layer's attention. n_raw: rows that are not VST."""
        x, n_raw = inputs_embeds, inputs_embeds.shape[1] if n_raw is None else n_raw
        for i in range(self.sizes.num_hidden_layers):
            q, k, v = self._project(i, self._norm(x, f"layers.{i}.input_layernorm"), n_raw)
            out = past_key_values.attend(i, q, k, v, backend=self.backend).flatten(2)
            x = x + F.linear(out, self._weight(f"layers.{i}.self_attn.o_proj.weight"))
            y = self._norm(x, f"layers.{i}.post_attention_layernorm")
            gate, up, down = (self._weight(f"layers.{i}.mlp.{name}_proj.weight") for name in ("gate", "up", "down"))
            x = x + F.linear(F.silu(F.linear(y, gate)) * F.linear(y, up), down)
        return self._norm(x, "norm")

    def embed(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self._weight("embed_tokens.weight"))[None]

    def vst(self, count: int) -> Tensor:
        return self._weight("beacon_embed_tokens.weight").expand(1, count, -1)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weights["lm_head.weight"])[0]

    def _weight(self, name: str) -> Tensor:
        return self.weights[f"model.{name}"]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.sizes.rms_norm_eps)
        return self._weight(f"{name}.weight") * scaled.to(x.dtype)

    def _project(self, layer: int, x: Tensor, n_raw: int) -> tuple[Tensor, Tensor, Tensor]:
        def fused(prefix: str, kind: str) -> Tensor:
            return torch.cat([self._weight(f"layers.{layer}.self_attn.{prefix}{name}_proj.{kind}") for name in "qkv"])

        raw, vst = ([fused(prefix, kind) for kind in ("weight", "bias")] for prefix in ("", "beacon_"))
        return vst_project(x, n_raw, *raw, *vst, heads=self.heads, kv_heads=self.kv_heads)


class Grouped:
    """`attend` for one pass over all rows of a layout, differentiable: VST keys are global keys at their final rotation."""

    def __init__(self, layout: VideoLayout, inv_freq: Tensor) -> None:
        layout = layout.grouped()
        self.plan, at = layout.to("cpu"), torch.from_numpy(query_positions(layout)[0])
        self.place = self.plan.bounds[0, :, 1].long() - 1
        tables = rotary_tables(inv_freq, at)
        # in position order
        self.cos, self.sin = (t[self.place.argsort()] for t in tables)
        self.final = rotary_tables(inv_freq, torch.from_numpy(global_positions(layout)[0]))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, backend: str | None = None) -> Tensor:
        index = self.plan.global_index[0].long()
        # rows of the grouped order that are global, in the order of the memory
        rows = self.place.argsort()[index]
        q, rotated_k, moved_v = vst_rotate(q, k, v, self.cos, self.sin, self.plan, backend=backend)
        wide = torch.promote_types(k.dtype, torch.float32)
        global_k = rotated(k[:, rows].to(wide), *(t[:, None].to(wide) for t in self.final)).to(k.dtype)
        out: Tensor = block_sparse_attention(
            q, rotated_k, moved_v, self.plan, global_k=global_k, global_v=v[:, rows], backend=backend
        )
        return out


def append(cache: VSTCache, decoder: Decoder, features: Tensor, chunks: Sequence[tuple[int, int]]) -> None:
    """Features [B, visual, E] of these chunks (visual tokens, ratio), in one pass."""
    segments = cache.chunks(chunks)
    vst = sum(segment.length for segment in segments) - features.shape[1]
    embeds = torch.cat([features, decoder.vst(vst).expand(features.shape[0], -1, -1)], 1)
    cache.append(decoder, embeds, segments, n_raw=features.shape[1])
