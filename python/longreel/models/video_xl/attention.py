"""VST weights inside a decoder's own attention layers, and how the rows of a pass attend to each other."""

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention

from longreel import VideoLayout, block_sparse_attention
from longreel.cache.vst import VSTCache
from longreel.cache.vst_last import attend_vst, store
from longreel.integrations.range_mask import RangeMask
from longreel.layout import global_positions, query_positions
from longreel.layout.context import in_force
from longreel.layout.segments import chunk_of
from longreel.ops._vst_rotate import vst_rotate
from longreel.rotary import rotary_tables, rotated

PROJECTIONS = ("q_proj", "k_proj", "v_proj")
# As the released state dict names the weights of VST rows.
VST_NAMES = tuple(f"beacon_{name}" for name in PROJECTIONS)


class Rows(Protocol):
    """The rows of one pass, grouped [raw | VST].

    n_raw: how many are raw. constant_vst: the layer before which all VST rows are one vector; -1: it is not made use of.
    """

    n_raw: int
    constant_vst: int

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Projected, unrotated q [B, R, H, D], k and v [B, R, Hkv, D] -> [B, R, H, D]."""


class VSTAttention(nn.Module):
    """Mixed into a Llama or Qwen2 attention class: called with `vst=` (`Rows`) it computes rows grouped [raw | VST], whose VST
    rows have projections of their own; over a `VSTCache` text goes on behind the video without a copy of it; else it is what it
    was."""

    layer_idx: int
    head_dim: int
    attention_dropout: float

    def forward(self, hidden_states: Tensor, *args: Any, vst: Rows | None = None, **inputs: Any) -> Any:
        cache = inputs.get("past_key_values")
        if vst is None and isinstance(cache, VSTCache):
            mask = inputs.get("attention_mask")
            if not isinstance(mask, RangeMask) or mask.start is not None or mask.gap is not None:
                raise ValueError(
                    "text over a VSTCache is one question a sample, without padding, under attn_implementation='longreel'"
                )
            vst = CachedRows(cache, hidden_states.shape[1], backend=mask.in_force.backend)
        if vst is None:
            return super().forward(hidden_states, *args, **inputs)
        if in_force().shared is not None:
            raise ValueError("VST tokens are not computed over a sequence that processes share (use_layout(rows=...))")
        if self.training and self.attention_dropout:
            raise ValueError(f"attention dropout {self.attention_dropout} is not computed with VST tokens: set it to 0")
        out = vst.attend(self.layer_idx, *self.project(hidden_states, vst.n_raw, vst.constant_vst == self.layer_idx))
        return self.get_submodule("o_proj")(out.flatten(2)), None

    def project(self, x: Tensor, n_raw: int, constant: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, R, H, D], k and v [B, R, Hkv, D] of x [B, R, E], `n_raw` raw rows first; constant: its VST rows are alike, and
        one is computed for all."""
        vst = x.shape[1] - n_raw
        if constant and vst > 1:
            q, k, v = self.project(x[:, : n_raw + 1], n_raw)
            last = torch.arange(x.shape[1], device=x.device).clamp(max=n_raw)
            return q[:, last], k[:, last], v[:, last]
        q, k, v = (
            self._both(x, n_raw, raw, own).unflatten(-1, (-1, self.head_dim))
            for raw, own in zip(PROJECTIONS, VST_NAMES, strict=True)
        )
        return q, k, v

    def _both(self, x: Tensor, n_raw: int, raw: str, own: str) -> Tensor:
        """Raw rows through the model's projection, VST rows through their own; called, so that adapters and hooks on them act."""
        # With gradients both are called over no rows too, so that every weight has one.
        if not torch.is_grad_enabled() and n_raw in (0, x.shape[1]):
            return self.get_submodule(raw if n_raw else own)(x)
        return torch.cat([self.get_submodule(raw)(x[:, :n_raw]), self.get_submodule(own)(x[:, n_raw:])], 1)

    def project_vst(self, x: Tensor, n_raw: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `project`, with the queries of the VST rows only [B, R - n_raw, H, D]."""
        q = self.get_submodule(VST_NAMES[0])(x[:, n_raw:]).unflatten(-1, (-1, self.head_dim))
        k, v = (
            self._both(x, n_raw, raw, own).unflatten(-1, (-1, self.head_dim))
            for raw, own in zip(PROJECTIONS[1:], VST_NAMES[1:], strict=True)
        )
        return q, k, v

    def vst_keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, n, Hkv, D] of VST rows x [B, n, E]."""
        k, v = (self.get_submodule(name)(x).unflatten(-1, (-1, self.head_dim)) for name in VST_NAMES[1:])
        return k, v


def add_vst(decoder: Any) -> None:
    """Give the layers of a transformers decoder (`model.model`) VST weights, copies of their own, under released names.

    Raises:
        TypeError: its attention layers are not Llama's or Qwen2's.
    """
    for layer in decoder.layers:
        attention = getattr(layer, "self_attn", None)
        if not isinstance(attention, (LlamaAttention, Qwen2Attention)):
            raise TypeError(
                f"{type(decoder).__name__} has {type(attention).__name__}: VST weights are for the attention of Llama and Qwen2"
            )
        if not isinstance(attention, VSTAttention):
            for name, own in zip(PROJECTIONS, VST_NAMES, strict=True):
                attention.add_module(own, copy.deepcopy(getattr(attention, name)))
            kind: Any = type(attention)
            attention.__class__ = _with_vst(kind)
    table = decoder.embed_tokens.weight
    if not hasattr(decoder, "beacon_embed_tokens"):
        decoder.beacon_embed_tokens = nn.Embedding(1, table.shape[1], device=table.device, dtype=table.dtype)
        with torch.no_grad():
            decoder.beacon_embed_tokens.weight.copy_(table[_end_of_text(decoder.config, len(table))])


@functools.cache
def _with_vst(kind: Any) -> Any:
    return type(f"VST{kind.__name__}", (VSTAttention, kind), {"__module__": kind.__module__})


def _end_of_text(config: Any, ids: int) -> int:
    """Whose embedding a VST token begins with, as published."""
    eos = config.eos_token_id[0] if isinstance(config.eos_token_id, list) else config.eos_token_id
    return eos if eos is not None and eos < ids else 0


@dataclass
class CachedRows:
    """Rows whose keys and values a `VSTCache` keeps on the way. For inference."""

    cache: VSTCache
    n_raw: int
    constant_vst: int = -1
    backend: str | None = None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.cache.attend(layer, q, k, v, self.backend)

    def finish(self, layers: Sequence[Any], x: Tensor) -> None:
        """The last two layers of a chunk of which nobody reads a row: all that the memory takes from them.

        x: [B, R, E], what comes into them.
        """
        last = len(self.cache.layers) - 1
        if len(layers) == 1:
            x = x[:, self.n_raw :]
        else:
            before = layers[0]
            q, k, v = before.self_attn.project_vst(before.input_layernorm(x), self.n_raw)
            out = attend_vst(self.cache, last - 1, q, k, v, self.backend)
            x = x[:, self.n_raw :] + before.self_attn.o_proj(out.flatten(2))
            x = x + before.mlp(before.post_attention_layernorm(x))
        k, v = layers[-1].self_attn.vst_keys(layers[-1].input_layernorm(x))
        store(self.cache, last, k, v, self.backend)


class LayoutRows:
    """All rows of a layout in one differentiable pass: VST keys of earlier chunks are read at their final rotation.

    layout: one sample. inv_freq: float32 [D/2], of the model.
    """

    def __init__(
        self,
        layout: VideoLayout,
        inv_freq: Tensor,
        *,
        device: torch.device | str = "cpu",
        constant_vst: int = -1,
        backend: str | None = None,
    ) -> None:
        layout = layout.grouped()
        self.plan, self.backend, self.constant_vst = layout.to(device), backend, constant_vst
        # [R], of the grouped rows, then of the places the row there.
        place = self.plan.bounds[0, :, 1].long() - 1
        row_at = place.argsort()
        self.n_raw = layout.length - sum(_vst_of(layout))
        # The rows that are global keys, in the order of the memory.
        self._global = row_at[self.plan.global_index[0].long()]
        at = torch.from_numpy(query_positions(layout)[0]).to(device)
        inv_freq = inv_freq.to(device)
        self._tables = rotary_tables(inv_freq, at[row_at])
        self._final = rotary_tables(inv_freq, torch.from_numpy(global_positions(layout)[0]).to(device))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, moved_k, moved_v = vst_rotate(q, k, v, *self._tables, self.plan, backend=self.backend)
        wide = torch.promote_types(k.dtype, torch.float32)
        final = (t[:, None].to(wide) for t in self._final)
        global_k = rotated(k[:, self._global].to(wide), *final).to(k.dtype)
        out: Tensor = block_sparse_attention(
            q,
            moved_k,
            moved_v,
            self.plan,
            global_k=global_k,
            global_v=v[:, self._global],
            backend=self.backend,
        )
        return out


def _vst_of(layout: VideoLayout) -> list[int]:
    (documents,) = layout.samples
    return [chunk_of(s).vst for document in documents for s in document.segments if s.kind == "vst"]
