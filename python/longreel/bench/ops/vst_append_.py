"""The benchmark of vst_append_."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from longreel.bench.case import Tensors
from longreel.bench.vst_case import VSTCase, VSTPeer, rotate_halves, whole_tables


def _in_place(given: Tensors) -> Tensors:
    rows, first = given["k"].shape[1], given["mem_k"].shape[2] - given["k"].shape[1]
    here = slice(first, first + rows)
    given["mem_k"][:, :, here] = rotate_halves(given["k"], *(given[t][here, None] for t in ("cos", "sin"))).transpose(
        1, 2
    )
    given["mem_v"][:, :, here] = given["v"].transpose(1, 2)
    return {name: given[name] for name in ("mem_k", "mem_v")}


class VSTAppendCase(VSTCase):
    """A chunk's VST rows at the end of a memory that has just room for them."""

    PEERS: ClassVar = {"strong": VSTPeer("rotary embedding, then two writes in place", _in_place, whole_tables)}

    @property
    def results(self) -> tuple[str, ...]:
        return ("mem_k", "mem_v")

    def inputs(self, normal: Callable[..., Tensor], angles: Callable[[int, int], Tensors]) -> Tensors:
        s, rows = self.shape, self.shape.visual // self.shape.ratio
        memory = {name: normal(1, s.kv_heads, s.entries + rows, s.head_dim) for name in ("mem_k", "mem_v")}
        new = {name: normal(1, rows, s.kv_heads, s.head_dim) for name in ("k", "v")}
        return memory | {"mem_len": self.mem_len} | new | angles(0, s.entries + rows)

    @property
    def fixed(self) -> dict[str, Any]:
        return {}


CASE = VSTAppendCase
