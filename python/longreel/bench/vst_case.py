"""Benchmarks of Video-XL's ops: one chunk behind a memory, at the shapes of a layer."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from longreel.bench.case import BenchCase, Prepared, Tensors
from longreel.bench.check import ErrorSum, Verdict, judge
from longreel.layout import PlannedLayout, VideoLayout
from longreel.ops.common.cost import Cost
from longreel.ops.registry import OPS
from longreel.rotary import rotary_tables


@dataclass(frozen=True)
class VSTShape:
    """A chunk of `visual` tokens at `ratio`, behind `entries` of the memory."""

    entries: int = 18432
    visual: int = 1440
    ratio: int = 8
    heads: int = 28
    kv_heads: int = 4
    head_dim: int = 128

    def __str__(self) -> str:
        heads = f"{self.heads} heads over {self.kv_heads} of {self.head_dim}"
        return f"{self.visual} tokens at ratio {self.ratio} behind {self.entries} entries, {heads}"


@dataclass(frozen=True)
class VSTPeer:
    """A form in plain PyTorch: named inputs to named results. `setup` lays inputs out for it, outside the clock."""

    note: str
    run: Callable[[Tensors], Tensors]
    setup: Callable[[Tensors], Tensors] = dict


class VSTCase(BenchCase):
    """Inputs by the names of the public function's arguments. The chunk's rows stand in position order, whatever the op takes,
    so that peers need not move them."""

    shape: VSTShape
    PEERS: ClassVar[Mapping[str, VSTPeer]]
    SIZES: ClassVar[Mapping[str, VSTShape]] = {
        "small": VSTShape(40, 24, 8, 4, 2, 16), "quick": VSTShape(2304), "hour": VSTShape(),
    }  # fmt: skip
    SYSTEMS: ClassVar[Mapping[str, Mapping[str, VSTShape]]] = {"video-xl": SIZES}

    @classmethod
    def passes(cls, op: str = "") -> tuple[str, ...]:
        return ("none",)

    @property
    def leaves(self) -> tuple[str, ...]:
        return ()

    @property
    def peers(self) -> Mapping[str, VSTPeer]:
        return self.PEERS

    @cached_property
    def layout(self) -> VideoLayout:
        return VideoLayout.vst(ratio=[(self.shape.visual, self.shape.ratio)])

    @cached_property
    def plan(self) -> PlannedLayout:
        return self.layout.to(self.device)

    @abstractmethod
    def inputs(self, normal: Callable[..., Tensor], angles: Callable[[int, int], Tensors]) -> Tensors:
        """Floating inputs: `normal(*shape)`, `angles(first, count)` of positions (float32)."""

    @cached_property
    def tensors(self) -> Tensors:
        generator = torch.Generator().manual_seed(0)
        half = self.shape.head_dim // 2

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(self.device, self.dtype)

        def angles(first: int, count: int) -> Tensors:
            inv_freq = 1e6 ** (-torch.arange(half) / half)
            cos, sin = rotary_tables(inv_freq, torch.arange(first, first + count))
            return {"cos": cos.to(self.device), "sin": sin.to(self.device)}

        return self.inputs(normal, angles)

    @property
    def fixed(self) -> dict[str, Any]:
        """The arguments of the public function that are no inputs."""
        return {"layout": self.plan}

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments of the public function."""
        return {**self.tensors, **self.fixed}

    @property
    def mem_len(self) -> Tensor:
        return torch.full((1,), self.shape.entries, dtype=torch.int32, device=self.device)

    @property
    def work(self) -> Cost:
        return OPS[self.op].cost(**self.arguments)

    @property
    def bytes(self) -> int:
        return self.work.bytes_read + self.work.bytes_written

    def needs(self, name: str) -> int:
        s = self.shape
        if name in self.kernels or name not in ("reference", "published"):
            return 0
        # scores, mask and softmax
        return 3 * 4 * s.heads * self.layout.length * (s.entries + self.layout.length)

    def named(self, result: Any, given: dict[str, Any]) -> Tensors:
        """The results of the public function by name; of one that works in place, what it wrote."""
        changed = OPS[self.op].mutates
        if changed:
            return {name: given[name] for name in changed}
        listed = result if isinstance(result, tuple) else (result,)
        return dict(zip(self.results, listed, strict=True))

    @property
    @abstractmethod
    def results(self) -> tuple[str, ...]:
        """Names of what the public function returns, or writes."""

    def prepare(self, name: str) -> Prepared:
        def own(tensors: Tensors) -> Tensors:
            return tensors | {changed: tensors[changed].clone() for changed in OPS[self.op].mutates}

        if name in self.peers:
            peer = self.peers[name]
            return Prepared(peer.run, lambda tensors: peer.setup(own(tensors)))
        public = partial(OPS[self.op].public, **self.fixed, backend=name)
        return Prepared(lambda tensors: self.named(public(**tensors), tensors), own)

    @cached_property
    def _truth(self) -> tuple[Tensors, dict[str, ErrorSum]]:
        truth = self.reference(torch.float64, self.tensors)
        yardsticks = {name: ErrorSum() for name in truth}
        for name, value in self.reference(self.dtype, self.tensors).items():
            yardsticks[name].add(value, truth[name])
        return truth, yardsticks

    def reference(self, dtype: torch.dtype, tensors: Tensors) -> Tensors:
        """Of these inputs, in `dtype` throughout."""
        given: dict[str, Any] = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
        given |= self.fixed
        given |= {name: given[name].clone() for name in OPS[self.op].mutates}
        lowered = OPS[self.op].lower(**given)
        outputs = OPS[self.op].reference(*lowered, same_dtype=True)
        return self.named(tuple(outputs[: len(self.results)]) or None, given)

    def check(self, result: Tensors) -> Verdict:
        truth, yardsticks = self._truth
        sums = {name: ErrorSum() for name in result}
        for name, value in result.items():
            sums[name].add(value, truth[name])
        return judge(sums, yardsticks, self.dtype)


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As transformers writes it: tables of whole width, in the dtype of x."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def whole_tables(given: Tensors) -> Tensors:
    """cos and sin of whole width in the rows' dtype."""
    return given | {name: torch.cat([given[name]] * 2, -1).to(given["k"].dtype) for name in ("cos", "sin")}
