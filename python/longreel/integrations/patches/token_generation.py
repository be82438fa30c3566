"""LLaMA-VID's repository: the context token and the content tokens of every frame by compress_frames."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.integrations.patches.common import aside, no_kernel, not_matrix
from longreel.integrations.patching.replacement import Aside, Patch, Replacement
from longreel.nn.context_attention import fold_projections
from longreel.ops._compress_frames import NAME, compress_frames

PARTS = ("vlm_att_key_projector", "vlm_att_val_projector", "mm_projector")


def _objection(module: Any) -> str | None:
    parts = module.get_model()
    lacking = [name for name in PARTS if getattr(parts, name, None) is None]
    if lacking:
        return f"it has no {lacking[0]} yet: patch after initialize_attention_modules"
    key = parts.vlm_att_key_projector
    return not_matrix(vlm_att_key_projector=key) or no_kernel(NAME, None, key.weight)


def token_generation(call: Replacement, *args: Any, **kwargs: Any) -> Any:
    """text_q [B, M, C] and vis_embed [B, N, C], a row a prompt and frame -> [B, 1 + n, H]; long_video changes no number."""
    given, parts = call.named(args, kwargs), call.module.get_model()
    query, patches, key = given["text_q"], given["vis_embed"], parts.vlm_att_key_projector
    away = aside(
        not_matrix(vlm_att_key_projector=key), _unequal(query, patches, key), no_kernel(NAME, call.backend, patches)
    )
    if away is not None:
        return away
    pooling = _pooling(getattr(call.module.config, "compress_type", None), patches.shape[1])
    if isinstance(pooling, Aside):
        return pooling
    # The key's bias adds one number to all scores of a query and cancels in the softmax.
    weight, _ = fold_projections(key.weight)
    context, content, _ = compress_frames(F.linear(query, weight), patches, **pooling, scale=1.0, backend=call.backend)
    return torch.cat([parts.vlm_att_val_projector(context[:, None]), parts.mm_projector(content)], 1)


def _unequal(query: Tensor, patches: Tensor, key: Any) -> str | None:
    if query.dim() != 3 or patches.dim() != 3 or len(query) != len(patches):
        return "queries and patches that are not [B, M, C] and [B, N, C]"
    autocast = torch.is_autocast_enabled(patches.device.type)
    return None if autocast or {query.dtype, key.weight.dtype} == {patches.dtype} else "dtypes that differ"


def _pooling(kind: str | None, patches: int) -> dict[str, Any] | Aside:
    """The released compress_type as arguments of compress_frames: a word with neither "grid" nor "mean" in it keeps all."""
    if kind is None or not ("grid" in kind or "mean" in kind):
        return {"mode": "none"}
    if "grid" not in kind:
        return {"mode": "mean"}
    size, side = kind.split("grid:")[-1], int(patches**0.5)
    if not size.isdecimal() or not 1 < int(size) <= side or side * side != patches:
        return Aside(f"compress_type {kind!r} of {patches} patches")
    return {"mode": "grid", "output_size": int(size)}


ROW = Patch("token_generation", NAME, ("LLaMAVIDMetaForCausalLM",), {"token_generation": token_generation}, _objection)
