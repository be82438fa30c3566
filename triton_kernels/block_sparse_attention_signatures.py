"""What of block_sparse_attention is compiled ahead of time: keys of G gathered, rows and heads 16-byte aligned."""

from typing import Any

import torch
from longreel.triton_kernels.block_sparse_attention_backward_keys import (
    block_sparse_keys_kernel,
    block_sparse_merge_kernel,
)
from longreel.triton_kernels.block_sparse_attention_backward_rows import (
    DELTA_ROWS,
    block_sparse_delta_kernel,
    block_sparse_rows_kernel,
)
from longreel.triton_kernels.block_sparse_attention_config import PORTABLE_SHARED, head_constants, tile_config
from longreel.triton_kernels.block_sparse_attention_decode import (
    MERGE_ROWS,
    block_sparse_decode_kernel,
    block_sparse_decode_merge_kernel,
)
from longreel.triton_kernels.block_sparse_attention_forward import block_sparse_forward_kernel
from longreel.triton_kernels.launch import TRITON_NAMES, Signature, signature

LARGE_SHARED = 227 * 1024  # what a block may have on Hopper and later data-centre cards
KERNELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "forward": (block_sparse_forward_kernel, {"GLOBAL": True}),
    "decode": (block_sparse_decode_kernel, {"GLOBAL": True}),
    "rows": (block_sparse_rows_kernel, {"GLOBAL": True, "NEED": True}),
    "keys": (block_sparse_keys_kernel, {"WANT_KEYS": True, "WANT_GLOBAL": True}),
}
SUMS = ("lse", "delta", "factor", "sums", "own_sums", "tops", "totals")
PLAN = ("global_index", "start", "bounds", "tiles", "order", "units", "runs", "unit_order", "inverse", "counts")
VALUES = ("q", "k", "v", "out", "grad_out", "grad_q", "grad_k", "grad_v")
ABSENT = ("global_k", "global_v", "grad_lse")


# What is compiled costs seconds in every test run: heads of one tile (128) and of two (96), of the others what is tightest.
CHOSEN = (
    (torch.bfloat16, 128, ("forward", "decode", "rows", "keys")),
    (torch.float32, 128, ("forward", "rows", "keys")),
    (torch.bfloat16, 96, ("forward", "decode", "rows", "keys")),
    (torch.bfloat16, 64, ("forward",)),
    (torch.bfloat16, 80, ("forward",)),
    (torch.bfloat16, 256, ("keys",)),
)


def aot_signatures() -> list[Signature]:
    """Every kernel, with the tiles of large cards beside those that fit every card."""
    found = []
    for dtype, head, names in CHOSEN:
        kind = TRITON_NAMES[dtype]
        for name in names:
            kernel, constants = KERNELS[name]
            tiles = {"every card": tile_config(name, head, dtype.itemsize, 128, 64, PORTABLE_SHARED)}
            large = tile_config(name, head, dtype.itemsize, 128, 64, LARGE_SHARED)
            if large != tiles["every card"]:
                tiles["large card"] = large
            for card, tile in tiles.items():
                label = f"block_sparse_{name}/{kind}/{head}/{card}"
                given = constants | {"GATHER": True, "BM": tile.rows, "BN": tile.keys}
                found.append(_signature(label, kernel, dtype, head, given, tile.num_warps, tile.num_stages))
    for name, kernel, constants in (
        ("delta", block_sparse_delta_kernel, {"BM": DELTA_ROWS}),
        ("merge", block_sparse_merge_kernel, {"GATHER": True, "BN": 64}),
        ("decode_merge", block_sparse_decode_merge_kernel, {"BM": MERGE_ROWS}),
    ):
        found.append(_signature(f"block_sparse_{name}/bf16/128", kernel, torch.bfloat16, 128, constants, 4, 3))
    return found


def _signature(
    label: str, kernel: Any, dtype: torch.dtype, head: int, constants: dict[str, Any], warps: int, stages: int
) -> Signature:
    """Every other argument by its name."""
    constants = head_constants(head) | {"UPCAST": False, **constants}
    types: dict[str, str] = {}
    for name in (parameter.name for parameter in kernel.params):
        if name in ABSENT or (name == "factor" and dtype != torch.float32):
            constants[name] = None
        elif name.startswith(("gk_", "gv_", "gl_")):
            constants[name] = 0
        elif name.endswith("_d"):
            constants[name] = 1
        elif name in VALUES:
            types[name] = f"*{TRITON_NAMES[dtype]}:16"
        elif name in SUMS:
            types[name] = "*fp32:16"
        elif name in PLAN:
            types[name] = "*i32:16"
        elif name == "scale":
            types[name] = "fp32"
        elif name not in constants:
            types[name] = "i32:16" if name.endswith(("_b", "_r", "_h")) else "i32"
    given = {name: value for name, value in constants.items() if name in {p.name for p in kernel.params}}
    return signature(label, kernel, types, given, warps, stages)
