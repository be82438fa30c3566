"""The benchmark of the ops on frames of patches: a shape, the peers of bench.peers, a check over the distinct frames."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from longreel.bench.case import BACKWARD, BenchCase, Prepared, Tensors
from longreel.bench.check import ErrorSum, Verdict, judge
from longreel.bench.peers import Outputs, Peer
from longreel.ops.common.cost import Cost
from longreel.ops.registry import OPS

Form = Callable[..., Any]


@dataclass(frozen=True)
class PatchShape:
    """F frames of N patches of width C, M query rows shared by all frames, output_size x output_size content tokens."""

    frames: int = 3600
    patches: int = 256
    width: int = 1408
    queries: int = 32
    output_size: int = 4

    def __str__(self) -> str:
        patches, out = f"[{self.frames}, {self.patches}, {self.width}]", self.output_size
        return f"patches {patches}, {self.queries} queries, {out}x{out}"


# A prime number of distinct frames: an hour of fresh normal numbers takes longer than measuring it.
DISTINCT = 61
_SHARPNESS = 3.0
_CHECKED_AT_ONCE = 16


@dataclass(frozen=True)
class _Truth:
    """Outputs and gradients of the distinct frames in float64, the query's gradient over all frames, plain PyTorch's errors."""

    rows: Tensors
    grad_query: Tensor
    yardsticks: dict[str, ErrorSum]


class PatchCase(BenchCase):
    """Patches [F, N, C] whose frames repeat, queries [M, C] that all frames share.

    INPUTS, OUTPUTS: names of the op's tensor arguments and of its outputs. KEYWORDS: those that it takes from the shape. PEERS
    by name; PLAIN is the obvious form, the yardstick of the error budget.
    """

    shape: PatchShape
    INPUTS: ClassVar[tuple[str, ...]]
    OUTPUTS: ClassVar[tuple[str, ...]]
    KEYWORDS: ClassVar[tuple[str, ...]] = ()
    PEERS: ClassVar[Mapping[str, Peer]]
    PLAIN: ClassVar[Callable[..., Outputs]]
    SIZES: ClassVar[Mapping[str, PatchShape]] = {
        "small": PatchShape(32, 64, 256, 8, 2), "quick": PatchShape(frames=64), "hour": PatchShape(),
    }  # fmt: skip
    SYSTEMS: ClassVar[Mapping[str, Mapping[str, PatchShape]]] = {"llama-vid": SIZES}

    def __post_init__(self) -> None:
        super().__post_init__()
        if math.isqrt(self.shape.patches) ** 2 != self.shape.patches:
            raise ValueError(f"patches={self.shape.patches} must be a square, the peers pool square grids")

    @classmethod
    def passes(cls) -> tuple[str, ...]:
        """Without a query only none and all."""
        return BACKWARD if "query" in cls.INPUTS else ("none", "all")

    @property
    def leaves(self) -> tuple[str, ...]:
        return {"none": (), "query": ("query",), "all": self.INPUTS}[self.backward]

    @property
    def peers(self) -> Mapping[str, Peer]:
        return self.PEERS

    @property
    def keywords(self) -> dict[str, Any]:
        return {name: getattr(self.shape, name) for name in self.KEYWORDS}

    @cached_property
    def tensors(self) -> Tensors:
        """Inputs, and gradients of the outputs as `grad_<output>`. Frames repeat after 61; softmax rows are sharp."""
        s, generator = self.shape, torch.Generator().manual_seed(0)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator)

        def frames(*size: int) -> Tensor:
            distinct = normal(DISTINCT, *size).to(self.device, self.dtype)
            return distinct[torch.arange(s.frames, device=self.device) % DISTINCT]

        made = {"patches": frames(s.patches, s.width)}
        if "query" in self.INPUTS:
            made["query"] = (_SHARPNESS * normal(s.queries, s.width)).to(self.device, self.dtype)
        if self.leaves:
            sizes = {"context": (s.width,), "content": (s.output_size**2, s.width)}
            made |= {f"grad_{name}": frames(*sizes[name]) for name in self.OUTPUTS}
        return made

    @property
    def work(self) -> Cost:
        tensors = [self.tensors[name] for name in self.INPUTS]
        forward = OPS[self.op].cost(*tensors, **self.keywords)
        if not self.leaves:
            return forward
        backward = self._backward_cost()
        return Cost(
            forward.flops + backward.flops,
            forward.bytes_read + backward.bytes_read,
            forward.bytes_written + backward.bytes_written,
        )

    def _backward_cost(self) -> Cost:
        """Scores again, g_n, then dQ and dX; every input and output gradient read, every gradient written."""
        s, t = self.shape, self.tensors
        rows = s.frames * s.patches * s.width
        flops = 0
        if "query" in t:
            flops += 2 * rows * (s.queries + 1) + 2 * rows * s.queries * len(self.leaves)
        if "patches" in self.leaves:
            flops += rows * len(self.OUTPUTS)
        reads = [t[name] for name in self.INPUTS if self.op != "adaptive_pool"]
        reads += [t[f"grad_{name}"] for name in self.OUTPUTS if name == "context" or "patches" in self.leaves]
        return Cost(flops, sum(x.nbytes for x in reads), sum(t[name].nbytes for name in self.leaves))

    @property
    def bytes(self) -> int:
        """Inputs and, with a gradient for the patches, that too."""
        s = self.shape
        patches = s.frames * s.patches * s.width * self.dtype.itemsize
        return patches * (2 if "patches" in self.leaves else 1)

    def prepare(self, name: str) -> Prepared:
        form: Form
        if name not in self.PEERS:
            form = partial(OPS[self.op].public, backend=name)
        else:
            peer = self.PEERS[name]
            form = (peer.training if self.leaves else None) or peer.forward
            if peer.compiled:
                # past a number of recompilations of one function it would run eagerly, and say nothing
                torch.compiler.reset()
                form = torch.compile(form, dynamic=False)
        return Prepared(partial(self.run, form))

    def run(self, form: Form, tensors: Tensors) -> Tensors:
        """The outputs of `form` on `tensors`, and the gradients of the leaves as `grad_<input>`, by name."""
        inputs = {name: tensors[name].detach().requires_grad_(name in self.leaves) for name in self.INPUTS}
        with torch.set_grad_enabled(bool(self.leaves)):
            returned = form(*inputs.values(), **self.keywords)
        # our compress_frames also returns the weights, None here
        outputs = dict(
            zip(
                self.OUTPUTS,
                (returned,) if isinstance(returned, Tensor) else returned[: len(self.OUTPUTS)],
                strict=True,
            )
        )
        results = {name: output.detach() for name, output in outputs.items()}
        if self.leaves:
            reached = [name for name in self.OUTPUTS if outputs[name].requires_grad]
            grads = torch.autograd.grad(
                [outputs[name] for name in reached],
                [inputs[name] for name in self.leaves],
                [tensors[f"grad_{name}"] for name in reached],
            )
            results |= {f"grad_{name}": grad for name, grad in zip(self.leaves, grads, strict=True)}
        return results

    @cached_property
    def _truth(self) -> "_Truth":
        """The reference in float64 and the errors of plain PyTorch in the dtype, over the distinct frames."""
        reference, plain = partial(OPS[self.op].public, backend="reference"), self.PLAIN
        distinct = min(DISTINCT, self.shape.frames)
        rounds, rest = divmod(self.shape.frames, distinct)
        rows: dict[str, list[Tensor]] = {}
        yardsticks: dict[str, ErrorSum] = {}
        # the query's gradient sums over frames: truth and plain [2, M, C]
        shared = torch.zeros(2, self.shape.queries, self.shape.width, dtype=torch.float64, device=self.device)

        def both(start: int, end: int, times: int) -> tuple[Tensors, Tensors]:
            piece = {name: t if name == "query" else t[start:end] for name, t in self.tensors.items()}
            truth = self.run(reference, {name: tensor.double() for name, tensor in piece.items()})
            other = self.run(plain, piece)
            if "query" in self.leaves:
                shared.add_(torch.stack([truth.pop("grad_query"), other.pop("grad_query").double()]), alpha=times)
            return truth, other

        for start in range(0, distinct, _CHECKED_AT_ONCE):
            truth, other = both(start, min(start + _CHECKED_AT_ONCE, distinct), rounds)
            for name in truth:
                rows.setdefault(name, []).append(truth[name])
                yardsticks.setdefault(name, ErrorSum()).add(other[name], truth[name])
        if rest and "query" in self.leaves:
            both(0, rest, 1)
        if "query" in self.leaves:
            yardsticks["grad_query"] = ErrorSum()
            yardsticks["grad_query"].add(shared[1].to(self.dtype), shared[0])
        return _Truth({name: torch.cat(parts) for name, parts in rows.items()}, shared[0], yardsticks)

    def check(self, result: Tensors) -> Verdict:
        """`result` against the reference in float64 (yardstick: plain PyTorch in the dtype), every frame of it."""
        truth = self._truth
        sums = {name: ErrorSum() for name in result}
        for name, value in result.items():
            if name == "grad_query":
                sums[name].add(value, truth.grad_query)
                continue
            for frames in value.split(len(truth.rows[name])):
                sums[name].add(frames, truth.rows[name][: len(frames)])
        return judge(sums, truth.yardsticks, self.dtype)

    def needs(self, name: str) -> int:
        """At the peak of a call with gradients for the patches, from `Peer.copies`."""
        copies = self.PEERS[name].copies if name in self.PEERS else 5.0 if name == "reference" else 1.0
        return int(copies * self.tensors["patches"].nbytes) if "patches" in self.leaves else 0
