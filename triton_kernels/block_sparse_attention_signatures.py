"""What of block_sparse_attention is compiled ahead of time: heads of 128 in groups of 4, keys of G gathered."""

from typing import Any

import torch
from longreel.triton_kernels.launch import TRITON_NAMES

PLAN = ("global_index", "start", "bounds", "tiles", "order", "units", "runs", "unit_order")
STRIDES = ("q", "k", "v", "gk", "gv", "dq")


def arguments(kernel: Any, dtype: torch.dtype, **tiles: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """Types and constants of every argument of `kernel`: rows and heads 16-byte aligned, elements side by side."""
    kind = TRITON_NAMES[dtype]
    types: dict[str, str] = {}
    constants: dict[str, Any] = {}
    for name in (parameter.name for parameter in kernel.params):
        if name in tiles:
            constants[name] = tiles[name]
        elif name in ("global_k", "global_v", "grad_lse"):
            constants[name] = None
        elif name.startswith(("gk_", "gv_", "gl_")):
            constants[name] = 0
        elif name.endswith("_d"):
            constants[name] = 1
        elif name in PLAN:
            types[name] = "*i32:16"
        elif name in ("q", "k", "v", "out", "grad_out", "grad_q", "grad_k", "grad_v"):
            types[name] = f"*{kind}:16"
        elif name in ("lse", "delta", "factor", "sums", "tops", "totals", "parts", "own_parts"):
            types[name] = "*fp32:16"
        elif name in ("inverse", "counts"):
            types[name] = "*i32:16"
        elif name == "scale":
            types[name] = "fp32"
        else:
            types[name] = "i32:16" if name.endswith(("_b", "_r", "_h")) else "i32"
    return types, constants
