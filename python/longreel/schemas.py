"""Schemas of every low-level op, one overload per kernel backend. Defined before any kernel is loaded; imports torch only.

An op's arguments are named here and nowhere else: what a call is lowered to, its fake and its backward know them by these names.
A schema `<op>_backward` makes `<op>` differentiable: it asks by name for gradients of outputs (`grad_<output>`), for arguments
and outputs of `<op>`, and for what is wanted (`need_<input>`), and returns `grad_<input>`. An op that changes an argument in
place declares it (`Tensor(a!)`) and has a name that ends in `_`.
"""

from collections import namedtuple
from functools import cache
from typing import Any

import torch

KERNEL_BACKENDS = ("cpu", "cuda", "triton")
# Beside those, for one kind of card: kernels that have a forward pass of their own.
CARD_BACKENDS = {
    "context_attention": ("cluster",),
    "compress_frames": ("cluster",),
    "block_sparse_attention": ("gluon",),
}

_POOL = "int prefix, int pitch, int height, int width, int out_height, int out_width"
# out_frames: 0 where each frame is pooled by itself. grids: of packed pictures, six numbers each (reference/packed_grids.py).
_POOLED_GRIDS = f"{_POOL}, int out_frames, int bilinear, int[] grids"
# The layout tensors are those of longreel.layout.PlannedLayout.
_SPARSE = (
    "Tensor q, Tensor k, Tensor v, Tensor? global_k, Tensor? global_v, Tensor global_index, Tensor start, Tensor bounds,"
    " Tensor tiles, Tensor order, Tensor kv_blocks, Tensor query_ranges, Tensor kv_order, int tile_rows, int tile_keys,"
    " float scale"
)
_QFORMER = (
    "Tensor query, Tensor x, Tensor w_k, Tensor w_v, Tensor? b_v, Tensor? key_mask, Tensor? frame_table, int frame_size,"
    " int num_heads, float scale"
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
    "adaptive_pool": f"(Tensor patches, {_POOLED_GRIDS}) -> (Tensor output)",
    "adaptive_pool_backward": f"(Tensor grad_output, int tokens, {_POOLED_GRIDS}, SymInt frames) -> (Tensor grad_patches)",
    "token_scores": (
        "(Tensor patches, Tensor query, Tensor? before, float scale)"
        " -> (Tensor products, Tensor change, Tensor uniqueness)"
    ),
    "token_density": "(Tensor x) -> (Tensor likeness, Tensor density, Tensor denser)",
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
    "qformer_attention": f"({_QFORMER}) -> (Tensor out, Tensor lse)",
    "qformer_attention_backward": (
        f"(Tensor? grad_out, {_QFORMER}, Tensor out, Tensor lse, int need_query, int need_x, int need_w_k, int need_w_v,"
        " int need_b_v, int need_frame_table) -> (Tensor grad_query, Tensor grad_x, Tensor grad_w_k, Tensor grad_w_v,"
        " Tensor grad_b_v, Tensor grad_frame_table)"
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
        "(Tensor q, Tensor k, Tensor v, Tensor mem_k, Tensor mem_v, Tensor mem_len, Tensor? mem_start,"
        " Tensor? k_before, Tensor bounds, Tensor tiles, Tensor order, int tile_rows, int tile_keys, float scale)"
        " -> (Tensor out, Tensor lse)"
    ),
}

LIBRARY = torch.library.Library("longreel", "FRAGMENT")


def kernel_backends(name: str) -> tuple[str, ...]:
    """Those of the op, or of `<op>_backward`."""
    return KERNEL_BACKENDS + CARD_BACKENDS.get(name.removesuffix("_backward"), ())


def define(name: str, schema: str) -> None:
    """One overload of the op for every kernel backend."""
    SCHEMAS[name] = schema
    for backend in kernel_backends(name):
        LIBRARY.define(f"{name}.{backend}{schema}", tags=(torch.Tag.pt2_compliant_tag,))


for _name, _schema in SCHEMAS.items():
    define(_name, _schema)


@cache
def parsed(name: str) -> torch.FunctionSchema:
    return torch._C.parse_schema(name + SCHEMAS[name])


@cache
def arguments(name: str) -> Any:
    """A NamedTuple class of the op's arguments."""
    return namedtuple(f"{name}_arguments", [argument.name for argument in parsed(name).arguments])


def outputs(name: str) -> tuple[str, ...]:
    return tuple(returned.name for returned in parsed(name).returns)


def mutated(name: str) -> tuple[str, ...]:
    """The arguments that the op changes in place."""
    written = [a for a in parsed(name).arguments if a.alias_info is not None and a.alias_info.is_write]
    return tuple(argument.name for argument in written)


def overload(name: str, backend: str) -> torch._ops.OpOverload:
    """The low-level op `longreel::name.backend`."""
    packet = getattr(torch.ops.longreel, name)
    found: torch._ops.OpOverload = getattr(packet, backend)
    return found
