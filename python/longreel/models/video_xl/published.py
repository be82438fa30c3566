"""The reference path: the released order of operations, window after window, everything concatenated and rotated anew."""

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.models.video_xl.attention import PROJECTIONS, VST_NAMES
from longreel.models.video_xl.model import VideoXL

Pair = tuple[Tensor, Tensor]


class Published:
    """Prefix, windows and text through the weights of a `VideoXL`; the memory holds keys before rotation.

    Every step concatenates memory and rows, rotates all keys from position 0 on, expands key heads, masks densely, and takes
    logits of every row, as released. In the dtype of the model: in float64 it is the truth.
    """

    def __init__(self, model: VideoXL) -> None:
        decoder = model.decoder.language.get_decoder()
        self._model, self._layers, self._norm = model, decoder.layers, decoder.norm
        self._vst = decoder.beacon_embed_tokens.weight
        # Per layer keys and values [1, Hkv, entries, D]; none before the first step.
        self.memory: list[Pair | None] = [None] * len(self._layers)
        self.size, self._carry = 0, 0

    def fork(self) -> "Published":
        """One more that goes on from here."""
        other = object.__new__(Published)
        other.__dict__ |= self.__dict__ | {"memory": list(self.memory)}
        return other

    def project(self, features: Tensor) -> Tensor:
        """The tower's features [F, N, C] -> visual tokens [F, N / 4, E]: projected, then pooled."""
        side = self._model.side
        x = self._model.projector(features)
        grid = x.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        return F.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)

    def text(self, ids: Tensor) -> Tensor:
        """ids [T] -> logits [T, V]; all of them stay in the memory."""
        rows = torch.zeros(len(ids), dtype=torch.bool, device=self._vst.device)
        return self._step(self._model.decoder.embed(ids), rows, ~rows)

    def window(self, visual: Tensor, ratio: int) -> None:
        """Visual tokens [n, E], a VST token after every `ratio` of them; those stay in the memory."""
        count = len(visual)
        vst = (count + self._carry) // ratio
        rows = torch.zeros(count + vst, dtype=torch.bool, device=visual.device)
        rows[ratio - self._carry :: ratio + 1] = True
        self._carry = (count + self._carry) % ratio
        embeds = visual.new_zeros(1, len(rows), visual.shape[1])
        embeds[0, ~rows], embeds[0, rows] = visual, self._vst.expand(vst, -1)
        self._step(embeds, rows, rows)

    def rotated(self) -> Tensor:
        """Keys, rotated where they stand, and values [layers, 2, Hkv, entries, D]."""
        cos, sin = self._tables(self.size)
        return torch.stack([torch.stack([_rotated(k, cos, sin)[0], v[0]]) for k, v in self._held()])

    def _held(self) -> list[Pair]:
        return [pair for pair in self.memory if pair is not None]

    def _step(self, x: Tensor, vst: Tensor, stays: Tensor) -> Tensor:
        """x [1, R, E], of whose rows `vst` [R] are VST and `stays` [R] go to the memory -> logits [R, V]."""
        rows = x.shape[1]
        keys = self.size + rows
        cos, sin = self._tables(keys)
        mask = x.new_full((rows, keys), torch.finfo(x.dtype).min).triu(self.size + 1)
        for i, layer in enumerate(self._layers):
            attention = layer.self_attn
            y = _normed(layer.input_layernorm, x)
            q, k, v = (_projected(attention, raw, own, y, vst) for raw, own in zip(PROJECTIONS, VST_NAMES, strict=True))
            held = self.memory[i]
            all_k, all_v = (k, v) if held is None else (torch.cat([held[0], k], 2), torch.cat([held[1], v], 2))
            stay = tuple(t[:, :, stays] for t in (k, v))
            self.memory[i] = stay if held is None else tuple(torch.cat(two, 2) for two in zip(held, stay, strict=True))  # type: ignore[assignment]
            groups = q.shape[1] // k.shape[1]
            all_k, all_v = (t.repeat_interleave(groups, 1) for t in (_rotated(all_k, cos, sin), all_v))
            q = _rotated(q, cos[self.size :], sin[self.size :])
            out = F.scaled_dot_product_attention(q, all_k, all_v, mask)
            x = x + attention.o_proj(out.transpose(1, 2).flatten(2))
            x = x + layer.mlp(_normed(layer.post_attention_layernorm, x))
        self.size += int(stays.sum())
        # Of every row, also of those that nobody reads.
        logits = self._model.decoder.logits(_normed(self._norm, x))[0]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _tables(self, count: int) -> Pair:
        """cos and sin [count, D]: computed in float32, float64 for the truth, and rounded to the model's dtype."""
        dtype = self._vst.dtype
        wide = torch.promote_types(dtype, torch.float32)
        at = torch.arange(count, device=self._vst.device, dtype=wide)
        angles = at[:, None] * self._model.decoder.inv_freq.to(at)
        both = torch.cat([angles, angles], -1)
        return both.cos().to(dtype), both.sin().to(dtype)


def _projected(attention: torch.nn.Module, raw: str, own: str, x: Tensor, vst: Tensor) -> Tensor:
    """[1, H, R, D]: raw rows and VST rows by weights of their own, scattered back to their places."""
    width: int = attention.head_dim  # type: ignore[assignment]
    layer = attention.get_submodule(raw)
    out = x.new_zeros(1, x.shape[1], layer.out_features)  # type: ignore[call-overload]
    for rows, name in ((~vst, raw), (vst, own)):
        if rows.any():
            out[:, rows] = attention.get_submodule(name)(x[:, rows])
    return out.unflatten(-1, (-1, width)).transpose(1, 2)


def _normed(norm: torch.nn.Module, x: Tensor) -> Tensor:
    """RMSNorm in float32 at least: transformers' own would round the truth to float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.variance_epsilon)  # type: ignore[operator]
    out: Tensor = norm.weight * scaled.to(x.dtype)  # type: ignore[operator]
    return out


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., S, D] with its halves turned, in its own dtype."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin
