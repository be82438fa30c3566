"""The benchmark of token_scores."""

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
from longreel.reference.token_scores import token_scores as plain

OUTPUTS = ("products", "change", "uniqueness")


@dataclass(frozen=True)
class ScoresShape:
    """F frames of N tokens of width C, M queries."""

    frames: int = 64
    tokens: int = 256
    width: int = 3584
    queries: int = 20

    def __str__(self) -> str:
        return f"patches [{self.frames}, {self.tokens}, {self.width}], {self.queries} queries"


def wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def eager(patches: Tensor, query: Tensor) -> Any:
    """As the formulas are written, in float32 at least, four frames and the one before at a time."""
    made, scale = [], patches.shape[-1] ** -0.5
    for a in range(0, len(patches), 4):
        before = None if a == 0 else wide(patches[a - 1])
        made.append(plain(wide(patches[a : a + 4]), wide(query), before, scale))
    return [torch.cat(parts) for parts in zip(*made, strict=True)]


class TokenScoresCase(BenchCase):
    shape: ScoresShape
    SIZES: ClassVar[Mapping[str, ScoresShape]] = {
        "small": ScoresShape(3, 16, 64, 4),
        "quick": ScoresShape(16),
        "hour": ScoresShape(512),
    }

    @classmethod
    def passes(cls) -> tuple[str, ...]:
        return ("none",)

    @property
    def leaves(self) -> tuple[str, ...]:
        return ()

    @property
    def peers(self) -> Mapping[str, Peer]:
        return {"strong": Peer(eager, None, "norms, products and means in float32, four frames at a time")}

    @cached_property
    def tensors(self) -> Tensors:
        s, generator = self.shape, torch.Generator().manual_seed(0)
        made = {
            "patches": torch.randn(s.frames, s.tokens, s.width, generator=generator),
            "query": torch.randn(s.queries, s.width, generator=generator),
        }
        return {name: tensor.to(self.device, self.dtype) for name, tensor in made.items()}

    @property
    def work(self) -> Cost:
        return OPS[self.op].cost(self.tensors["patches"], self.tensors["query"])

    @property
    def bytes(self) -> int:
        return self.tensors["patches"].nbytes

    def prepare(self, name: str) -> Prepared:
        form: Any = self.peers[name].forward if name in self.peers else partial(OPS[self.op].public, backend=name)

        def run(tensors: Tensors) -> Tensors:
            return dict(zip(OUTPUTS, form(tensors["patches"], tensors["query"]), strict=True))

        return Prepared(run)

    def needs(self, name: str) -> int:
        return 0

    def check(self, result: Tensors) -> Verdict:
        sums, yardsticks = ({name: ErrorSum() for name in OUTPUTS} for _ in range(2))
        truth = eager(self.tensors["patches"].double(), self.tensors["query"].double())
        own = eager(self.tensors["patches"], self.tensors["query"])
        for name, right, other in zip(OUTPUTS, truth, own, strict=True):
            # The first frame has none before it.
            rows = slice(1, None) if name == "change" else slice(None)
            sums[name].add(result[name][rows], right[rows])
            yardsticks[name].add(other[rows], right[rows])
        return judge(sums, yardsticks, self.dtype)


CASE = TokenScoresCase
