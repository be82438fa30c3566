"""The benchmark of block_sparse_attention: a VoCo video, the peers of bench.sparse_peers, a check of every row and gradient."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from longreel.bench.case import BenchCase, Prepared, Tensors
from longreel.bench.check import ErrorSum, Verdict, judge
from longreel.bench.dense_rate import BACKWARD_PRODUCTS, dense_attention
from longreel.bench.sparse_peers import SPARSE_PEERS, Form, Frames, SparsePeer
from longreel.layout import PlannedLayout, VideoLayout, visible_pairs
from longreel.measure.clock import Timed
from longreel.measure.machine import Record
from longreel.ops._block_sparse_attention import block_sparse_attention, cost, executed_flops
from longreel.ops.common.cost import Cost
from longreel.reference.block_sparse_attention import block_sparse_attention as reference
from longreel.testing.budget import PEER_BUDGETS

INPUTS = ("q", "k", "v")
_SHARPNESS = 3.0
_CHECKED_TILE = (128, 128)


@dataclass(frozen=True)
class SparseShape:
    """`frames` of `vision` patches and `voco` VoCo rows, then `text` rows, under VoCo mode `mode`."""

    frames: int = 64
    vision: int = 576
    voco: int = 1
    text: int = 64
    heads: int = 8
    kv_heads: int = 8
    head_dim: int = 64
    mode: Literal["independent", "causal"] = "causal"

    def __str__(self) -> str:
        heads = f"{self.heads} heads" + (f" over {self.kv_heads}" if self.kv_heads != self.heads else "")
        frames = f"{self.frames} x ({self.vision} + {self.voco}) + {self.text} rows"
        return f"{frames}, {self.mode}, {heads} of {self.head_dim}"


class SparseCase(BenchCase):
    """q [1, S, H, D], k and v [1, S, Hkv, D] under a VoCo layout that is planned outside the clock."""

    shape: SparseShape
    SIZES: ClassVar[Mapping[str, SparseShape]] = {
        "small": SparseShape(6, 60, 2, 10, 4, 2, 32), "quick": SparseShape(frames=6), "hour": SparseShape(),
    }  # fmt: skip
    SYSTEMS: ClassVar[Mapping[str, Mapping[str, SparseShape]]] = {
        "voco-llama": {
            "small": SIZES["small"],
            "quick": SparseShape(frames=3, heads=32, kv_heads=32, head_dim=128),
            "hour": SparseShape(frames=64, heads=32, kv_heads=32, head_dim=128),
        }
    }

    @classmethod
    def passes(cls) -> tuple[str, ...]:
        return ("none", "all")

    @property
    def leaves(self) -> tuple[str, ...]:
        return INPUTS if self.backward == "all" else ()

    @property
    def peers(self) -> Mapping[str, SparsePeer]:
        return {name: peer for name, peer in SPARSE_PEERS.items() if not self.leaves or self.device.type in peer.trains}

    def absent(self, peer: str) -> str | None:
        return self.peers[peer].absent(self.device, self.dtype)

    @cached_property
    def layout(self) -> VideoLayout:
        s = self.shape
        return VideoLayout.voco(frames=s.frames, vision=s.vision, voco=s.voco, text=s.text, mode=s.mode)

    @cached_property
    def plan(self) -> PlannedLayout:
        return self.layout.to(self.device)

    @cached_property
    def tensors(self) -> Tensors:
        """Inputs, and the gradient of the output as `grad_out`; softmax rows are sharp."""
        s, generator = self.shape, torch.Generator().manual_seed(0)

        def normal(heads: int) -> Tensor:
            return torch.randn(1, self.layout.length, heads, s.head_dim, generator=generator)

        made = {"q": _SHARPNESS * normal(s.heads), "k": normal(s.kv_heads), "v": normal(s.kv_heads)}
        if self.leaves:
            made["grad_out"] = normal(s.heads)
        return {name: tensor.to(self.device, self.dtype) for name, tensor in made.items()}

    @property
    def work(self) -> Cost:
        t = self.tensors
        forward = cost(t["q"], t["k"], t["v"], self.plan)
        if not self.leaves:
            return forward
        inputs = sum(self.tensors[name].nbytes for name in INPUTS)
        return Cost(
            int(forward.flops * (1 + BACKWARD_PRODUCTS)),
            2 * forward.bytes_read + forward.bytes_written + self.tensors["grad_out"].nbytes,
            forward.bytes_written + inputs,
        )

    @property
    def bytes(self) -> int:
        s = self.shape
        rows = self.layout.length * s.head_dim * self.dtype.itemsize
        return rows * 2 * (s.heads + s.kv_heads) * (2 if self.leaves else 1)

    def executed(self, backend: str) -> float | None:
        """FLOPs that the backend's forward executes over those of the visible pairs."""
        s = self.shape
        executed = executed_flops(self.plan, backend, s.heads, s.kv_heads, s.head_dim, self.dtype)
        visible = 4 * s.head_dim * s.heads * visible_pairs(self.layout)
        return None if executed is None else executed / max(1, visible)

    def budgets(self, backend: str) -> float:
        """flash is torch's own arithmetic."""
        return PEER_BUDGETS if backend == "flash" else 1.0

    def note(self, backend: str) -> str:
        executed = self.executed(backend)
        return super().note(backend) + ("" if executed is None else f", executes {executed:.2f}x the visible FLOPs")

    @property
    def facts(self) -> Record:
        executed = {name: self.executed(name) for name in self.kernels}
        return super().facts | {f"executed_over_visible_{name}": value for name, value in executed.items()}

    def needs(self, name: str) -> int:
        s = self.shape
        if name == "reference":
            # its scores, mask and softmax, in float32
            return 4 * 4 * s.heads * self.layout.length**2
        itemsize = self.dtype.itemsize
        return self.peers[name].needs(self.layout.length, s.heads, itemsize) if name in self.peers else 0

    @property
    def dense(self) -> tuple[Timed, float]:
        s = self.shape
        return dense_attention(s.heads, s.head_dim, self.dtype, self.device, bool(self.leaves))

    def prepare(self, name: str) -> Prepared:
        if name not in self.peers:
            return Prepared(partial(self.run, partial(block_sparse_attention, layout=self.plan, backend=name)))
        form = self.peers[name].build(self.known, self.layout, bool(self.leaves))

        # [1, S, H, D] -> [H, S, D], packed outside the clock; results are viewed back
        def packed(tensors: Tensors) -> Tensors:
            return {key: tensor[0].transpose(0, 1).contiguous() for key, tensor in tensors.items()}

        return Prepared(
            lambda given: {key: t.transpose(0, 1)[None] for key, t in self.run(form, given).items()}, packed
        )

    @property
    def known(self) -> Frames:
        """What the peers know of the mask."""
        s = self.shape
        return Frames(s.frames, s.vision + s.voco, s.voco, s.text, s.mode == "causal")

    def run(self, form: Form, tensors: Tensors) -> Tensors:
        """The output of `form`, and the gradients of the leaves as `grad_<input>`."""
        inputs = [tensors[name].detach().requires_grad_(name in self.leaves) for name in INPUTS]
        with torch.set_grad_enabled(bool(self.leaves)):
            out = form(*inputs)
        results = {"out": out.detach()}
        if self.leaves:
            grads = torch.autograd.grad(out, inputs, tensors["grad_out"])
            results |= {f"grad_{name}": grad for name, grad in zip(INPUTS, grads, strict=True)}
        return results

    @cached_property
    def _truth(self) -> tuple[Tensors, dict[str, ErrorSum]]:
        """The reference in float64, and the errors of the reference in the dtype itself."""
        truth = self._by_tiles(torch.float64)
        yardsticks = {name: ErrorSum() for name in truth}
        for name, value in self._by_tiles(self.dtype).items():
            yardsticks[name].add(value.to(self.dtype), truth[name])
        return truth, yardsticks

    def check(self, result: Tensors) -> Verdict:
        """Every row of the output, and of the gradients."""
        truth, yardsticks = self._truth
        sums = {name: ErrorSum() for name in result}
        for name, value in result.items():
            sums[name].add(value, truth[name])
        return judge(sums, yardsticks, self.dtype)

    def _by_tiles(self, dtype: torch.dtype) -> Tensors:
        """The reference in `dtype`, tile by tile of a plan: each over the keys that its rows reach, no mask of all pairs."""
        given = {name: tensor.to(dtype) for name, tensor in self.tensors.items()}
        wide = torch.promote_types(dtype, torch.float32)
        results = {"out": torch.zeros_like(given["q"])}
        results |= {f"grad_{name}": torch.zeros_like(given[name], dtype=wide) for name in self.leaves}
        plan = self.plan
        for rows, keys, global_first, bounds in self._tiles():
            places = plan.global_index[0, global_first].long()
            leaves = [given["q"][:, rows], given["k"][:, keys], given["v"][:, keys]]
            leaves += [given["k"][:, places], given["v"][:, places]]
            leaves = [leaf.detach().requires_grad_(bool(self.leaves)) for leaf in leaves]
            scale = self.shape.head_dim**-0.5
            with torch.set_grad_enabled(bool(self.leaves)):
                q, k, v, global_k, global_v = leaves
                out, _ = reference(
                    q, k, v, global_k, global_v, bounds, plan.global_index[:, global_first], plan.start, scale
                )
            results["out"][:, rows] = out.detach()
            if self.leaves:
                grads = torch.autograd.grad(out, leaves, given["grad_out"][:, rows])
                results["grad_q"][:, rows] = grads[0].to(wide)
                for name, local, gathered in (("grad_k", grads[1], grads[3]), ("grad_v", grads[2], grads[4])):
                    results[name][:, keys] += local
                    results[name].index_add_(1, places, gathered.to(wide))
        return results

    def _tiles(self) -> Iterator[tuple[slice, slice, slice, Tensor]]:
        """Rows, keys of K and places of G of every tile, and the rows' bounds counted from those."""
        for tile in self.layout.plan(_CHECKED_TILE, bounds=False).tiles.tolist():
            _, row, end, _, local, _, _, local_end, global_first, _, _, global_end = tile
            origin = torch.tensor([local, local, global_first, global_first], dtype=torch.int32, device=self.device)
            bounds = self.plan.bounds[:, row:end] - origin
            yield slice(row, end), slice(local, local_end), slice(global_first, global_end), bounds


CASE = SparseCase
