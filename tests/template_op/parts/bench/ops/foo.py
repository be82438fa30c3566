"""The benchmark of foo."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch

from longreel.bench.case import BenchCase, Prepared, Tensors
from longreel.bench.check import ErrorSum, Verdict, judge
from longreel.bench.peers import Peer
from longreel.ops.common.cost import Cost
from longreel.ops.registry import OPS


@dataclass(frozen=True)
class FooShape:
    frames: int = 100_000
    width: int = 512


class FooCase(BenchCase):
    shape: FooShape
    SIZES: ClassVar[Mapping[str, FooShape]] = {"small": FooShape(10, 16), "quick": FooShape(), "hour": FooShape()}

    @classmethod
    def passes(cls) -> tuple[str, ...]:
        return ("none",)

    @property
    def leaves(self) -> tuple[str, ...]:
        return ()

    @property
    def peers(self) -> Mapping[str, Peer]:
        return {"strong": Peer(lambda x: x * 2, None, "a product")}

    @cached_property
    def tensors(self) -> Tensors:
        generator = torch.Generator().manual_seed(0)
        return {"x": torch.randn(self.shape.frames, self.shape.width, generator=generator).to(self.device, self.dtype)}

    @property
    def x(self) -> torch.Tensor:
        return self.tensors["x"]

    @property
    def work(self) -> Cost:
        return OPS[self.op].cost(self.x)

    @property
    def bytes(self) -> int:
        return 2 * self.x.nbytes

    def prepare(self, name: str) -> Prepared:
        form: Any = self.peers[name].forward if name in self.peers else lambda x: OPS[self.op].public(x, backend=name)
        return Prepared(lambda tensors: {"out": form(tensors["x"])})

    def needs(self, name: str) -> int:
        return 0

    def check(self, result: Tensors) -> Verdict:
        sums, plain = {"out": ErrorSum()}, {"out": ErrorSum()}
        sums["out"].add(result["out"], self.x.double() * 2)
        plain["out"].add(self.x * 2, self.x.double() * 2)
        return judge(sums, plain, self.dtype)


CASE = FooCase
