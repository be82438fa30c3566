"""Plain-PyTorch attention under a VoCo video mask: what block_sparse_attention is compared with.

Every form takes q [H, S, D], k and v [Hkv, S, D] as contiguous tensors, which spares it the transposition that a model's
projections leave it with, and allocates its output inside the call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.bench.flash_peer import flash_absent, flash_pieces
from longreel.layout import VideoLayout, flex_block_mask

Form = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Frames:
    """What the decomposition knows of the mask: frames of `length` rows whose last `voco` are VoCo, then `text` rows."""

    frames: int
    length: int
    voco: int
    text: int
    causal: bool

    @property
    def rows(self) -> int:
        return self.frames * self.length

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """FlexAttention's mask_mod."""
        q_text, k_text, q_frame, k_frame = q >= self.rows, k >= self.rows, q // self.length, k // self.length
        local = (k <= q) & ((q_text & k_text) | (~q_text & (q_frame == k_frame)))
        voco = ~k_text & (k % self.length >= self.length - self.voco)
        return local | (voco & (q_text | (k_frame < q_frame) if self.causal else q_text))

    def visible_gathered(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """The same over [K; VoCo rows of K], where those of earlier frames stand side by side."""
        q_text, k_text, q_frame = q >= self.rows, k >= self.rows, q // self.length
        local = (k <= q) & ((q_text & k_text) | (~q_text & (q_frame == k // self.length)))
        k_frame = (k - self.rows - self.text) // max(self.voco, 1)
        voco = q_text | (k_frame < q_frame) if self.causal else q_text
        return torch.where(k < self.rows + self.text, local, voco)

    def voco_rows(self, device: torch.device) -> Tensor:
        """[frames * voco], in order."""
        last = torch.arange(1, self.frames + 1, device=device) * self.length - self.voco
        return (last[:, None] + torch.arange(self.voco, device=device)).flatten()

    def text_mask(self, like: Tensor) -> Tensor:
        """[text, frames * voco + text], 0 or -inf: every VoCo row is visible, and text causally."""
        hidden = like.new_full((self.text, self.text), -torch.inf).triu(1)
        return torch.cat([like.new_zeros(self.text, self.frames * self.voco), hidden], 1)


@dataclass(frozen=True)
class SparsePeer:
    """`build(frames, layout, training)` makes the form; `trains`: the devices on which it has a backward; `needs(S, H, itemsize)`
    is what a call takes beyond inputs, in bytes; `absent(device, dtype)`: why it is not run there."""

    build: Callable[[Frames, VideoLayout, bool], Form]
    note: str
    trains: tuple[str, ...] = ("cpu", "cuda")
    needs: Callable[[int, int, int], int] = lambda rows, heads, itemsize: 0
    compiled: bool = False
    absent: Callable[[torch.device, torch.dtype], str | None] = lambda device, dtype: None


def decomposition(frames: Frames, layout: VideoLayout, training: bool) -> Form:
    """One batched causal SDPA over the frames, the VoCo keys of earlier frames by one call a frame, merged by LSE, one call
    for the text rows. Backward: the same pieces, each with the merged output and LSE: its gradients are parts of the sum."""

    def form(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        group = len(q) // len(k)
        k, v = (t if group == 1 else t.repeat_interleave(group, 0) for t in (k, v))
        if not training:
            return _forward(q, k, v, frames)[0]
        out: Tensor = _Decomposition.apply(q, k, v, frames)
        return out

    return form


def _flash(q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """q, k, v [B, H, S, D] -> out, lse [B, H, Sq], by torch's flash attention of the device."""
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, attn_mask=mask)
        return out, lse if lse.shape[1] == q.shape[1] else lse.transpose(1, 2)
    out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, mask, True, 0.0, causal)[:2]
    return out, lse[..., : q.shape[2]]


def _forward(q: Tensor, k: Tensor, v: Tensor, f: Frames) -> tuple[Tensor, Tensor]:
    """out [H, S, D], lse [H, S]."""
    heads, _, width = q.shape
    at = f.voco_rows(q.device)
    voco_k, voco_v = k[:, at], v[:, at]
    batched = (1, heads * f.frames, f.length, width)
    own = [t[:, : f.rows].reshape(batched) for t in (q, k, v)]
    out, lse = _flash(own[0], own[1], own[2], True)
    # [H, frames, length, D]
    out = out.reshape(heads, f.frames, f.length, width).clone()
    lse = lse.reshape(heads, f.frames, f.length).clone()
    for i in range(1, f.frames if f.causal else 0):
        rows, keys = slice(i * f.length, (i + 1) * f.length), slice(0, i * f.voco)
        of_voco, voco_lse = _flash(q[None, :, rows], voco_k[None, :, keys], voco_v[None, :, keys], False)
        share = torch.sigmoid(voco_lse[0] - lse[:, i])
        out[:, i] = torch.lerp(out[:, i].float(), of_voco[0].float(), share[..., None]).to(q.dtype)
        lse[:, i] = torch.logaddexp(lse[:, i], voco_lse[0])
    out, lse = out.reshape(heads, f.rows, width), lse.reshape(heads, f.rows)
    if not f.text:
        return out, lse
    joined = [torch.cat([a, b[:, f.rows :]], 1)[None] for a, b in ((voco_k, k), (voco_v, v))]
    text, text_lse = _flash(q[None, :, f.rows :], joined[0], joined[1], False, f.text_mask(q))
    return torch.cat([out, text[0]], 1), torch.cat([lse, text_lse[0]], 1)


class _Decomposition(torch.autograd.Function):
    """The gradient of every piece from the merged output and LSE, through the flash backward of the CPU."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, f: Frames) -> Tensor:
        out, lse = _forward(q, k, v, f)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.frames = f
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        f: Frames = ctx.frames
        piece = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        heads, _, width = q.shape
        at = f.voco_rows(q.device)
        voco_k, voco_v = k[:, at], v[:, at]
        batched = (1, heads * f.frames, f.length, width)
        gathered = (t[:, : f.rows].reshape(batched) for t in (grad, q, k, v, out))
        local = piece(*gathered, lse[:, : f.rows].reshape(batched[:3]), 0.0, True)
        dq, dk, dv = (torch.cat([t.reshape(heads, f.rows, width), torch.zeros_like(q[:, f.rows :])], 1) for t in local)
        voco_dk, voco_dv = (torch.zeros(voco_k.shape, dtype=torch.float32) for _ in range(2))
        for i in range(1, f.frames if f.causal else 0):
            rows, keys = slice(i * f.length, (i + 1) * f.length), slice(0, i * f.voco)
            part = piece(
                grad[None, :, rows], q[None, :, rows], voco_k[None, :, keys], voco_v[None, :, keys],
                out[None, :, rows], lse[None, :, rows], 0.0, False,
            )  # fmt: skip
            dq[:, rows] += part[0][0]
            voco_dk[:, keys] += part[1][0]
            voco_dv[:, keys] += part[2][0]
        if f.text:
            rows, split = slice(f.rows, f.rows + f.text), len(at)
            joined = [torch.cat([a, b[:, rows]], 1)[None] for a, b in ((voco_k, k), (voco_v, v))]
            part = piece(
                grad[None, :, rows], q[None, :, rows], *joined, out[None, :, rows], lse[None, :, rows], 0.0, False,
                attn_mask=f.text_mask(q),
            )  # fmt: skip
            dq[:, rows] = part[0][0]
            voco_dk += part[1][0, :, :split]
            voco_dv += part[2][0, :, :split]
            dk[:, rows], dv[:, rows] = part[1][0, :, split:], part[2][0, :, split:]
        dk[:, at] = (dk[:, at] + voco_dk).to(k.dtype)
        dv[:, at] = (dv[:, at] + voco_dv).to(v.dtype)
        return dq, dk, dv, None


def flex(frames: Frames, layout: VideoLayout, training: bool, gathered: bool = False, backend: str = "") -> Form:
    """flex_attention through torch.compile, with the layout's block mask made from its ranges (no mask materialised). gathered:
    over [K; VoCo rows], which are brought together in the call; backend: one of flex_attention's own."""
    from torch.nn.attention.flex_attention import flex_attention

    blocks: dict[torch.device, Any] = {}
    options: Any = {"BACKEND": backend} if backend else None
    torch.compiler.reset()
    compiled = torch.compile(flex_attention, dynamic=False)

    def form(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.device not in blocks:
            blocks[q.device] = flex_block_mask(layout, q.device, gathered=gathered)
            # by arithmetic: inductor's CPU code takes no tables in a mask
            blocks[q.device].mask_mod = frames.visible_gathered if gathered else frames.visible
        if gathered:
            at = frames.voco_rows(q.device)
            k, v = (torch.cat([t, t[:, at]], 1) for t in (k, v))
        mask, several = blocks[q.device], len(q) != len(k)
        out: Tensor = compiled(q[None], k[None], v[None], block_mask=mask, enable_gqa=several, kernel_options=options)[
            0
        ]
        return out

    return form


def flash(frames: Frames, layout: VideoLayout, training: bool) -> Form:
    """The pieces of the decomposition by FlashAttention 4, all frames' VoCo keys in one call."""

    def form(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return flash_pieces(q, k, v, frames.voco_rows(q.device), frames.frames, frames.length, frames.causal)

    return form


def dense(frames: Frames, layout: VideoLayout, training: bool) -> Form:
    """scaled_dot_product_attention under a mask of all pairs, made once."""
    masks: dict[torch.device, Tensor] = {}

    def form(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.device not in masks:
            masks[q.device] = _pairs(frames, q.device)
        mask = masks[q.device]
        return F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, enable_gqa=len(q) != len(k))[0]

    return form


def _pairs(f: Frames, device: torch.device) -> Tensor:
    """bool [S, S] of the whole mask, block by block."""
    mask = torch.zeros(f.rows + f.text, f.rows + f.text, dtype=torch.bool, device=device)
    at, square = f.voco_rows(device), torch.ones(f.length, f.length, dtype=torch.bool, device=device).tril()
    for i in range(f.frames):
        rows = slice(i * f.length, (i + 1) * f.length)
        mask[rows, rows] = square
        if f.causal:
            mask[rows, at[: i * f.voco]] = True
    mask[f.rows :, at] = True
    mask[f.rows :, f.rows :] = torch.ones(f.text, f.text, dtype=torch.bool, device=device).tril()
    return mask


SPARSE_PEERS = {
    "strong": SparsePeer(decomposition, "batched causal SDPA over frames, VoCo keys a frame, merged by LSE", ("cpu",)),
    # "does not support backward on CPU"
    "flex": SparsePeer(flex, "compiled flex_attention, block mask from the layout", ("cuda",), compiled=True),
    "flex-gathered": SparsePeer(
        partial(flex, gathered=True), "the same over [keys; VoCo keys], gathered in the call", ("cuda",), compiled=True
    ),
    "flex-flash": SparsePeer(
        partial(flex, gathered=True, backend="FLASH"), "the same by flex_attention's FLASH backend", ("cuda",),
        compiled=True, absent=flash_absent,
    ),
    "fa4": SparsePeer(
        flash, "the pieces of `strong` by FlashAttention 4, VoCo keys in one call", (), compiled=True, absent=flash_absent
    ),
    # bool, and the additive one that SDPA makes of it
    "dense": SparsePeer(
        dense, "SDPA under a dense mask", needs=lambda rows, heads, itemsize: rows * rows * (1 + itemsize)
    ),
}  # fmt: skip
