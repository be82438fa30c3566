"""Schemas of every low-level op, one overload per kernel backend. Defined before any kernel is loaded; imports torch only."""

import torch

KERNEL_BACKENDS = ("cpu", "cuda", "triton")

_POOL = "int prefix, int pitch, int height, int width, int out_height, int out_width"

SCHEMAS = {
    "context_attention": (
        "(Tensor query, Tensor patches, Tensor? query_mask, Tensor? cu_seqlens, float scale)"
        " -> (Tensor context, Tensor weights, Tensor lse)"
    ),
    "context_attention_backward": (
        "(Tensor? grad_context, Tensor? grad_weights, Tensor query, Tensor patches, Tensor? query_mask,"
        " Tensor? cu_seqlens, Tensor lse, float scale, int need_query, int need_patches)"
        " -> (Tensor grad_query, Tensor grad_patches)"
    ),
    "adaptive_pool": f"(Tensor patches, {_POOL}) -> Tensor",
    "adaptive_pool_backward": f"(Tensor grad, int tokens, {_POOL}) -> Tensor",
    "compress_frames": (
        f"(Tensor query, Tensor patches, Tensor? query_mask, float scale, {_POOL})"
        " -> (Tensor context, Tensor content, Tensor weights, Tensor lse)"
    ),
    "compress_frames_backward": (
        "(Tensor? grad_context, Tensor? grad_content, Tensor? grad_weights, Tensor query, Tensor patches,"
        f" Tensor? query_mask, Tensor lse, float scale, {_POOL}, int need_query, int need_patches)"
        " -> (Tensor grad_query, Tensor grad_patches)"
    ),
}

LIBRARY = torch.library.Library("longreel", "FRAGMENT")
for _name, _schema in SCHEMAS.items():
    for _backend in KERNEL_BACKENDS:
        LIBRARY.define(f"{_name}.{_backend}{_schema}", tags=(torch.Tag.pt2_compliant_tag,))


def overload(name: str, backend: str) -> torch._ops.OpOverload:
    """The low-level op `longreel::name.backend`."""
    packet = getattr(torch.ops.longreel, name)
    found: torch._ops.OpOverload = getattr(packet, backend)
    return found
