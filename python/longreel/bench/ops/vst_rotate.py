"""The benchmark of vst_rotate."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from longreel.bench.case import Tensors
from longreel.bench.vst_case import VSTCase, VSTPeer, rotate_halves, whole_tables


def _rotated(given: Tensors) -> Tensors:
    tables = [given[name][:, None] for name in ("cos", "sin")]
    return {name: rotate_halves(given[name], *tables) for name in ("q", "k")} | {"v": given["v"].clone()}


class VSTRotateCase(VSTCase):
    """q, k and v of a chunk."""

    PEERS: ClassVar = {"strong": VSTPeer("transformers' rotary embedding", _rotated, whole_tables)}

    @property
    def results(self) -> tuple[str, ...]:
        return ("q", "k", "v")

    def inputs(self, normal: Callable[..., Tensor], angles: Callable[[int, int], Tensors]) -> Tensors:
        s, rows = self.shape, self.layout.length
        heads = {"q": s.heads, "k": s.kv_heads, "v": s.kv_heads}
        made = {name: normal(1, rows, count, s.head_dim) for name, count in heads.items()}
        return made | angles(s.entries, rows)


CASE = VSTRotateCase
