"""The benchmark of qformer_attention: the temporal Q-Former's queries over all tokens of a video."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from longreel.bench.case import BACKWARD, BenchCase, Prepared, Tensors
from longreel.bench.check import ErrorSum, Verdict, judge
from longreel.bench.peers import Peer
from longreel.bench.qformer_peers import absorbed_chunked, absorbed_training, projections_sdpa, projections_training
from longreel.ops.common.cost import Cost
from longreel.ops.registry import OPS


def _but_gradient(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != "grad_out"}


@dataclass(frozen=True)
class QFormerShape:
    """`queries` of H heads of D over S keys of width C."""

    batch: int = 1
    queries: int = 32
    keys: int = 115_200
    width: int = 768
    heads: int = 12
    head_dim: int = 64

    def __str__(self) -> str:
        keys = f"[{self.batch}, {self.keys}, {self.width}]"
        return f"{self.queries} queries of {self.heads} heads of {self.head_dim} over keys {keys}"


class QFormerCase(BenchCase):
    """`backward`: "query" is all gradients but that of the keys, as behind a frozen tower; "all" has it too."""

    shape: QFormerShape
    SIZES: ClassVar[Mapping[str, QFormerShape]] = {
        "small": QFormerShape(2, 8, 500, 64, 4, 16), "quick": QFormerShape(keys=8192), "hour": QFormerShape(),
    }  # fmt: skip
    # The temporal Q-Former of the one; the other's reads every frame's 256 patches and its CLS for itself.
    SYSTEMS: ClassVar[Mapping[str, Mapping[str, QFormerShape]]] = {
        "video-llama": SIZES,
        "llama-vid": {
            "small": QFormerShape(2, 8, 17, 64, 4, 16),
            "quick": QFormerShape(8, 32, 257, 1408),
            "hour": QFormerShape(256, 32, 257, 1408),
        },
    }
    PEERS: ClassVar[Mapping[str, Peer]] = {
        "strong": Peer(absorbed_chunked, absorbed_training, "absorbed, online softmax over chunks of keys"),
        "projections": Peer(projections_sdpa, projections_training, "keys and values projected, then SDPA"),
    }
    WEIGHTS: ClassVar[tuple[str, ...]] = ("query", "w_k", "w_v", "b_v")

    @classmethod
    def passes(cls) -> tuple[str, ...]:
        return BACKWARD

    @property
    def leaves(self) -> tuple[str, ...]:
        return {"none": (), "query": self.WEIGHTS, "all": (*self.WEIGHTS, "x")}[self.backward]

    @property
    def peers(self) -> Mapping[str, Peer]:
        return self.PEERS

    @cached_property
    def tensors(self) -> Tensors:
        """Inputs by name and the output's gradient; softmax rows are sharp."""
        s, generator = self.shape, torch.Generator().manual_seed(0)
        inner = s.heads * s.head_dim

        def normal(*size: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(*size, generator=generator)).to(self.device, self.dtype)

        return {
            "query": normal(s.batch, s.queries, inner, scale=3.0),
            "x": normal(s.batch, s.keys, s.width),
            "w_k": normal(inner, s.width, scale=s.width**-0.5),
            "w_v": normal(inner, s.width, scale=s.width**-0.5),
            "b_v": normal(inner),
            "grad_out": normal(s.batch, s.queries, inner),
        }

    @property
    def _inputs(self) -> Tensors:
        return _but_gradient(self.tensors)

    @property
    def work(self) -> Cost:
        s, forward = self.shape, OPS[self.op].cost(**self._inputs, num_heads=self.shape.heads)
        if not self.leaves:
            return forward
        # Scores and sums again, the probabilities' gradient, the absorbed query's; two more for that of the keys.
        each = 2 * s.batch * s.queries * s.heads * s.keys * s.width
        flops = each * (6 if "x" in self.leaves else 4)
        wanted = sum(self.tensors[name].nbytes for name in self.leaves)
        return Cost(forward.flops + flops, 2 * forward.bytes_read, forward.bytes_written + wanted)

    @property
    def bytes(self) -> int:
        return self.tensors["x"].nbytes * (2 if "x" in self.leaves else 1)

    def prepare(self, name: str) -> Prepared:
        if name in self.peers:
            peer = self.PEERS[name]
            form: Any = (peer.training if self.leaves else None) or peer.forward
        else:
            form = partial(OPS[self.op].public, backend=name)
        form = partial(form, num_heads=self.shape.heads)
        return Prepared(lambda tensors: self._run(form, _but_gradient(tensors), tensors["grad_out"]))

    def _run(self, form: Callable[..., Any], tensors: Tensors, upstream: Tensor) -> Tensors:
        inputs = {name: t.detach().requires_grad_(name in self.leaves) for name, t in tensors.items()}
        with torch.set_grad_enabled(bool(self.leaves)):
            out = form(**inputs)
        made = {"out": out.detach()}
        if self.leaves:
            grads = torch.autograd.grad(out, [inputs[name] for name in self.leaves], upstream)
            made |= {f"grad_{name}": grad for name, grad in zip(self.leaves, grads, strict=True)}
        return made

    def needs(self, name: str) -> int:
        s = self.shape
        projected = 2 * s.batch * s.keys * s.heads * s.head_dim * self.dtype.itemsize
        return projected * (3 if self.leaves else 1) if name == "projections" else 0

    @cached_property
    def _truth(self) -> tuple[Tensors, dict[str, ErrorSum]]:
        truth = self._by_heads(torch.float64)
        yardsticks = {name: ErrorSum() for name in truth}
        for name, value in self._by_heads(self.dtype).items():
            yardsticks[name].add(value, truth[name])
        return truth, yardsticks

    def _by_heads(self, dtype: torch.dtype) -> Tensors:
        """The reference in `dtype` throughout, a head at a time: keys and values of all would be large."""
        depth, parts = self.shape.head_dim, list[Tensors]()
        wide = {name: t.to(dtype) for name, t in self.tensors.items()}
        reference: Any = OPS[self.op].reference
        lower = OPS[self.op].lower

        def one(**inputs: Any) -> Tensor:
            out: Tensor = reference(*lower(**inputs, num_heads=1), same_dtype=True)[0]
            return out

        joined: Tensors = {}
        for begin in range(0, self.shape.heads * depth, depth):
            end = begin + depth
            cut = {name: wide[name][begin:end] for name in ("w_k", "w_v", "b_v")}
            made = self._run(
                one, {"query": wide["query"][..., begin:end], "x": wide["x"], **cut}, wide["grad_out"][..., begin:end]
            )
            if "grad_x" in made:
                grad = made.pop("grad_x")
                joined["grad_x"] = joined["grad_x"] + grad if begin else grad
            parts.append(made)
        for name in list(parts[0]):
            joined[name] = torch.cat([part.pop(name) for part in parts], -1 if name in ("out", "grad_query") else 0)
        return joined

    def check(self, result: Tensors) -> Verdict:
        truth, yardsticks = self._truth
        sums = {name: ErrorSum() for name in result}
        for name, value in result.items():
            sums[name].add(value, truth[name])
        return judge(sums, yardsticks, self.dtype)


CASE = QFormerCase
