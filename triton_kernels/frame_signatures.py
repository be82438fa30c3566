"""What is compiled ahead of time of the frame passes: frames of 256 x 1408, 16-byte aligned, on a card of 99 KiB a block."""

import torch
from longreel.triton_kernels.frame_backward import SUM_BLOCK, frame_backward_kernel, sum_groups_kernel
from longreel.triton_kernels.frame_config import PORTABLE_SHARED, Card, frame_config, patches_config
from longreel.triton_kernels.frame_pass import PROMPT_TILE, WEIGHT_GAIN, frame_pass_kernel
from longreel.triton_kernels.launch import DTYPES, TRITON_NAMES, Signature, signature
from longreel.triton_kernels.patches_gradient import patches_gradient_kernel

CARD = Card(50 << 20, PORTABLE_SHARED, 132, wgmma=True)
TOKENS, CHANNELS = 256, 1408
# dtype and queries: a Q-Former's, and a text decoder's
KINDS = ((torch.float32, 32), (torch.float16, 32), (torch.bfloat16, 32), (torch.bfloat16, 128))
CONSTANT_STRIDES = dict.fromkeys(("q_channel", "x_channel"), 1) | dict.fromkeys(
    ("q_frame", "m_prompt", "m_frame", "m_query"), 0
)
WIDE = ("q_prompt", "q_query", "x_frame", "x_token", "w_prompt", "g_prompt", "queries", "tokens", "channels")
GEOMETRY = ("pitch", "height", "width", "out_height", "out_width", "y_size", "x_size", "longest_x")


def _entry(name: str, kernel: object, types: dict[str, str], constants: dict[str, object], sizes: tuple) -> Signature:
    """Of `types` and `constants` what the kernel has."""
    order = [parameter.name for parameter in kernel.params]
    own = [{a: given[a] for a in order if a in given} for given in (types, constants)]
    return signature(name, kernel, {a: kind for a, kind in own[0].items() if a not in own[1]}, own[1], *sizes)


def _types(kind: str) -> dict[str, str]:
    pointers = ("query", "patches", "context", "content", "grad_context", "grad_content", "slopes", "grad_patches")
    types = dict.fromkeys(pointers, f"*{kind}:16")
    types |= dict.fromkeys(("scores", "weights", "lse", "dots", "factors", "sums"), "*fp32:16")
    types |= dict.fromkeys(("progress", "work"), "*i32:16") | {"cu_seqlens": "*i64:16", "query_mask": "*i8:16"}
    types |= dict.fromkeys(("first", "lag", "frames", "all_frames", "prompts", "group", "groups"), "i32")
    return types | dict.fromkeys(GEOMETRY, "i32") | dict.fromkeys(WIDE, "i32:16") | {"scale": "fp32"}


def pass_signatures(name: str, pool: bool) -> list[Signature]:
    """One prompt of shared queries in every dtype; without pooling also packed, and eight prompts of masked queries."""
    found = []
    for dtype, queries in KINDS:
        found.append(_pass(name, dtype, queries, pool, packed=False, prompts=1))
    if not pool:
        found.append(_pass(name, torch.bfloat16, 32, pool, packed=True, prompts=1))
        found.append(_pass(name, torch.bfloat16, 32, pool, packed=False, prompts=8))
    return found


def _pass(name: str, dtype: torch.dtype, queries: int, pool: bool, packed: bool, prompts: int) -> Signature:
    kind = TRITON_NAMES[dtype]
    config = frame_config(TOKENS, CHANNELS, queries * prompts, dtype.itemsize, CARD)
    constants = CONSTANT_STRIDES | {
        "POOL": pool, "FUSED": pool, "PROMPTS": prompts > 1, "UPCAST": False,
        "GAIN": WEIGHT_GAIN if dtype == torch.float16 else 1.0, "BT": config.token_tile, "BK": config.channel_tile,
        "BQ": config.query_tile, "BC": config.slice, "BP": PROMPT_TILE, "ROWS": config.slice_rows,
        "CELLS": 4 if pool else 1, "SPAN": 4 if pool else 1, "y_out": 1, "x_out": 1,
    }  # fmt: skip
    if prompts == 1:
        constants |= {"prompts": 1, "query_mask": None}
    if not packed:
        constants |= {"cu_seqlens": None, "work": None}
    if not pool:
        constants |= dict.fromkeys(GEOMETRY, 1) | {"content": None}
    label = f"{name}/{kind}/{queries} queries" + (" packed" if packed else f" {prompts} prompts" if prompts > 1 else "")
    return _entry(label, frame_pass_kernel, _types(kind), constants, (config.num_warps, config.num_stages))


def backward_signatures(name: str, pool: bool) -> list[Signature]:
    """With pooling, the patches' gradient in every dtype; without, the frames' backward (it knows no pooling) in every
    dtype, and both for packed patches."""
    if pool:
        return [_patches(name, dtype, pool, packed=False) for dtype in DTYPES]
    types = {"sums": "*fp32:16", "out": "*bf16:16", "groups": "i32", "size": "i32:16"}
    return [
        *(_backward(name, dtype, queries, packed=False) for dtype, queries in KINDS),
        _backward(name, torch.bfloat16, 32, packed=True),
        _patches(name, torch.bfloat16, pool, packed=True),
        signature(f"{name}_sum_groups/bf16", sum_groups_kernel, types, {"BLOCK": SUM_BLOCK}, 4, 3),
    ]


def _backward(name: str, dtype: torch.dtype, queries: int, packed: bool) -> Signature:
    kind = TRITON_NAMES[dtype]
    config = frame_config(TOKENS, CHANNELS, queries, dtype.itemsize, CARD, backward=True, shared=True)
    constants = CONSTANT_STRIDES | {
        "prompts": 1, "query_mask": None, "grad_weights": None, "SWEEP": True, "SHARED": True, "UPCAST": False,
        "BT": config.token_tile, "BK": config.channel_tile, "BQ": config.query_tile, "BG": config.grad_tile,
        "BC": config.slice, "BN": config.slice_rows,
    }  # fmt: skip
    constants |= {} if packed else {"cu_seqlens": None, "work": None}
    label = f"{name}_backward/{kind}/{queries} queries" + (" packed" if packed else "")
    types = _types(kind) | {"grad_query": "*fp32:16"}
    return _entry(label, frame_backward_kernel, types, constants, (config.num_warps, config.num_stages))


def _patches(name: str, dtype: torch.dtype, pool: bool, packed: bool) -> Signature:
    kind = TRITON_NAMES[dtype]
    config = patches_config(32, dtype.itemsize)
    constants = CONSTANT_STRIDES | {
        "POOL": pool, "prompts": 1, "UPCAST": False, "BT": config.token_tile, "BR": config.row_tile,
        "BC": config.channel_tile, "WIDTH": config.span, "c_channel": int(pool),
    }  # fmt: skip
    constants |= dict.fromkeys(("y_out", "x_out", "longest_y_cells", "longest_x_cells"), 1)
    constants |= {} if packed else {"cu_seqlens": None, "work": None}
    constants |= {} if pool else dict.fromkeys(GEOMETRY, 1) | {"grad_content": None, "c_frame": 0, "c_cell": 0}
    types = _types(kind) | dict.fromkeys(("c_frame", "c_cell", "s_frame"), "i32:16")
    label = f"{name}_patches_gradient/{kind}" + (" packed" if packed else "")
    return _entry(label, patches_gradient_kernel, types, constants, (config.num_warps, config.num_stages))
