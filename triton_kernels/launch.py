"""What every kernel file shares: dtypes, sizes rounded for tiles, the record of an ahead-of-time compilation."""

from dataclasses import dataclass, field
from typing import Any

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TRITON_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Signature:
    """One specialisation of one kernel, as `triton.compile` takes it."""

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int
    attrs: dict[tuple[int, ...], list[list[Any]]] = field(default_factory=dict)


def signature(
    name: str, kernel: Any, types: dict[str, str], constants: dict[str, Any], num_warps: int, num_stages: int
) -> Signature:
    """`types` names every run-time argument, those divisible by 16 marked `:16`; `constants` the rest."""
    order = [parameter.name for parameter in kernel.params]
    missing = [argument for argument in order if argument not in types and argument not in constants]
    if missing:
        raise ValueError(f"{name}: no type for {', '.join(missing)}")
    plain = {a: types[a].removesuffix(":16") if a in types else "constexpr" for a in order}
    attrs = {(order.index(a),): [["tt.divisibility", 16]] for a, kind in types.items() if kind.endswith(":16")}
    return Signature(name, kernel, plain, constants, num_warps, num_stages, attrs)


def pow2(size: int, low: int, high: int) -> int:
    """`size` rounded up to a power of two, kept within low..high."""
    return min(max(1 << max(size - 1, 0).bit_length(), low), high)
