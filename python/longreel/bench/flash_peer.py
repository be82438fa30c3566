"""FlashAttention 4 (`flash_attn.cute`, package flash-attn-4) as a peer of sparse attention, where it is installed."""

import importlib.util
from typing import Any

import torch
from torch import Tensor


def flash_absent(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why FlashAttention 4 does not run there; None where it does."""
    if device.type != "cuda":
        return f"FlashAttention 4 is for CUDA, not for {device.type}"
    try:
        found = importlib.util.find_spec("flash_attn.cute") is not None
    except ImportError:
        found = False
    if not found:
        return "FlashAttention 4 (flash_attn.cute) is not installed"
    if dtype not in (torch.bfloat16, torch.float16):
        return "FlashAttention 4 is for 16 bits"
    major = torch.cuda.get_device_capability(device)[0]
    return None if major in (9, 10) else f"FlashAttention 4 is for compute capability 9 and 10, not {major}"


def flash_pieces(q: Tensor, k: Tensor, v: Tensor, voco_rows: Tensor, frames: int, length: int, causal: bool) -> Tensor:
    """q [H, S, D], k and v [Hkv, S, D] -> [H, S, D]: `frames` of `length` rows, each causal and before the VoCo keys of earlier
    ones (causal), then text, which attends to all VoCo keys and to itself."""
    from flash_attn import cute

    rows = frames * length
    # [S, H, D]
    q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    voco_k, voco_v = k[voco_rows], v[voco_rows]
    of_frames = [t[:rows].unflatten(0, (frames, length)) for t in (q, k, v)]
    out, lse = cute.flash_attn_func(*of_frames, causal=True, return_lse=True)
    # [frames * length, H, D], [H, frames * length]
    out, lse = out.flatten(0, 1), lse.transpose(0, 1).flatten(1)
    if causal and frames > 1:
        earlier, earlier_lse = _earlier(cute, q[length:rows], voco_k, voco_v, frames - 1, length)
        share = torch.sigmoid(earlier_lse - lse[:, length:]).T[..., None]
        merged = torch.lerp(out[length:].float(), earlier.float(), share).to(q.dtype)
        out = torch.cat([out[:length], merged])
    if len(q) > rows:
        joined = (torch.cat([a, b[rows:]])[None] for a, b in ((voco_k, k), (voco_v, v)))
        text, _ = cute.flash_attn_func(q[None, rows:], *joined, causal=True, return_lse=True)
        out = torch.cat([out, text[0]])
    return out.transpose(0, 1)


def _earlier(cute: Any, q: Tensor, voco_k: Tensor, voco_v: Tensor, frames: int, length: int) -> tuple[Tensor, Tensor]:
    """Frame i of q [frames * length, H, D] over the VoCo keys of i + 1 frames: one set of keys serves all, used so far."""
    borders = torch.arange(0, frames + 1, dtype=torch.int32, device=q.device)
    keys = [t.expand(frames, *t.shape) for t in (voco_k, voco_v)]
    used = borders[1:] * (len(voco_k) // (frames + 1))
    out, lse = cute.flash_attn_varlen_func(
        q, *keys, cu_seqlens_q=borders * length, max_seqlen_q=length, seqused_k=used, return_lse=True
    )
    return out, lse
