"""The benchmark of token_density."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from longreel.bench.case import BenchCase, Prepared, Tensors
from longreel.bench.check import ErrorSum, Verdict, judge
from longreel.bench.peers import Peer
from longreel.ops.common.cost import Cost
from longreel.ops.registry import OPS
from longreel.reference.token_density import token_density as plain

OUTPUTS = ("likeness", "density", "denser")


@dataclass(frozen=True)
class SegmentShape:
    """n tokens of width C."""

    tokens: int = 1024
    width: int = 3584

    def __str__(self) -> str:
        return f"x [{self.tokens}, {self.width}]"


def eager(x: Tensor) -> Any:
    """As the formulas are written, in float32 at least."""
    return plain(x.to(torch.promote_types(x.dtype, torch.float32)))


class TokenDensityCase(BenchCase):
    shape: SegmentShape
    SIZES: ClassVar[Mapping[str, SegmentShape]] = {
        "small": SegmentShape(48, 64),
        "quick": SegmentShape(512),
        "hour": SegmentShape(),
    }

    @classmethod
    def passes(cls) -> tuple[str, ...]:
        return ("none",)

    @property
    def leaves(self) -> tuple[str, ...]:
        return ()

    @property
    def peers(self) -> Mapping[str, Peer]:
        return {"strong": Peer(eager, None, "one product of all tokens in float32, then its sweeps")}

    @cached_property
    def tensors(self) -> Tensors:
        s, generator = self.shape, torch.Generator().manual_seed(0)
        x = torch.randn(s.tokens, s.width, generator=generator) + torch.randn(s.width, generator=generator)
        return {"x": x.to(self.device, self.dtype)}

    @property
    def work(self) -> Cost:
        return OPS[self.op].cost(self.tensors["x"])

    @property
    def bytes(self) -> int:
        return self.tensors["x"].nbytes

    def prepare(self, name: str) -> Prepared:
        form: Any = self.peers[name].forward if name in self.peers else partial(OPS[self.op].public, backend=name)

        def run(tensors: Tensors) -> Tensors:
            return dict(zip(OUTPUTS, form(tensors["x"]), strict=True))

        return Prepared(run)

    def needs(self, name: str) -> int:
        return 0

    def check(self, result: Tensors) -> Verdict:
        sums, yardsticks = ({name: ErrorSum() for name in OUTPUTS} for _ in range(2))
        truth, own = eager(self.tensors["x"].double()), eager(self.tensors["x"])
        for name, right, other in zip(OUTPUTS, truth, own, strict=True):
            sums[name].add(result[name], right)
            yardsticks[name].add(other, right)
        return judge(sums, yardsticks, self.dtype)


CASE = TokenDensityCase
