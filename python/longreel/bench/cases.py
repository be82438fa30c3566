"""The benchmark case of every op of the registry."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from longreel.bench.case import BACKWARD, CPU, DTYPES, Case, measure
from longreel.bench.ops.vst_append_ import VSTAppendCase
from longreel.bench.ops.vst_attention import VSTAttentionCase
from longreel.bench.ops.vst_rotate import VSTRotateCase
from longreel.bench.patch_case import PatchCase
from longreel.bench.sparse_case import SparseCase

__all__ = ["BACKWARD", "CASES", "CPU", "DTYPES", "SIZES", "Case", "measure", "op_names", "shape_of"]

CASES: dict[str, type[Case]] = {
    "compress_frames": PatchCase,
    "context_attention": PatchCase,
    "adaptive_pool": PatchCase,
    "block_sparse_attention": SparseCase,
    "vst_rotate": VSTRotateCase,
    "vst_attention": VSTAttentionCase,
    "vst_append_": VSTAppendCase,
}
SIZES = ("small", "hour")


def op_names() -> list[str]:
    """Ops that have a benchmark."""
    return list(CASES)


def shape_of(op: str, size: str, options: Mapping[str, Any]) -> Any:
    """The shape of `op` called `size`, with those of `options` that it knows."""
    shape = CASES[op].SIZES[size]
    known = {field.name for field in fields(shape)}
    return replace(shape, **{name: value for name, value in options.items() if name in known})
