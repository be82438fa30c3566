"""Schemas of every low-level op, one overload per kernel backend. Defined before any kernel is loaded; imports torch only."""

import torch

KERNEL_BACKENDS = ("cpu", "cuda", "triton")

_POOL = "int prefix, int pitch, int height, int width, int out_height, int out_width"
# The layout tensors are those of longreel.layout.PlannedLayout.
_SPARSE = (
    "Tensor q, Tensor k, Tensor v, Tensor? global_k, Tensor? global_v, Tensor global_index, Tensor start, Tensor bounds,"
    " Tensor tiles, Tensor order, Tensor units, Tensor runs, Tensor unit_order, int tile_rows, int tile_keys, float scale"
)

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
    "block_sparse_attention": f"({_SPARSE}) -> (Tensor out, Tensor lse)",
    "block_sparse_attention_backward": (
        f"(Tensor? grad_out, Tensor? grad_lse, {_SPARSE}, Tensor out, Tensor lse,"
        " int need_q, int need_kv, int need_global)"
        " -> (Tensor grad_q, Tensor grad_k, Tensor grad_v, Tensor grad_global_k, Tensor grad_global_v)"
    ),
    "vst_rotate": (
        "(Tensor q, Tensor k, Tensor v, Tensor cos, Tensor sin, Tensor bounds)"
        " -> (Tensor rotated_q, Tensor rotated_k, Tensor moved_v)"
    ),
    "vst_rotate_backward": (
        "(Tensor? grad_rotated_q, Tensor? grad_rotated_k, Tensor? grad_moved_v, Tensor cos, Tensor sin, Tensor bounds,"
        " int heads, int kv_heads, int need_q, int need_k, int need_v) -> (Tensor grad_q, Tensor grad_k, Tensor grad_v)"
    ),
    "vst_append_": (
        "(Tensor(a!) mem_k, Tensor(b!) mem_v, Tensor mem_len, Tensor k, Tensor v, Tensor cos, Tensor sin) -> ()"
    ),
    "vst_attention": (
        "(Tensor q, Tensor k, Tensor v, Tensor mem_k, Tensor mem_v, Tensor mem_len, Tensor? mem_start, Tensor bounds,"
        " Tensor tiles, Tensor order, int tile_rows, int tile_keys, float scale) -> (Tensor out, Tensor lse)"
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
