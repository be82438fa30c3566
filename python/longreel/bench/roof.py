"""The machine's roofs, measured in the same run as the variants: memory bandwidth and matrix rate."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from longreel.bench import one_dnn
from longreel.measure.clock import CudaClock, HostClock, Timed
from longreel.ops.common.cost import Cost

_DENSE = "dense form"


@dataclass(frozen=True)
class Roof:
    """Best bytes/s (`bandwidth`) and FLOP/s (`matrix`) that plain PyTorch reached, and with what; for sparse work also the FLOP/s
    of its dense form (`dense`)."""

    bandwidth: float
    matrix: float
    bandwidth_by: str
    matrix_by: str
    dense: float | None = None

    def seconds(self, work: Cost) -> float:
        """No call that does this work can be faster than this."""
        return max(work.bytes / self.bandwidth, work.flops / self.matrix)

    def sparsity_seconds(self, work: Cost) -> float | None:
        """What is left of sparse work, as fast as dense work goes; None where nothing is left out."""
        return None if self.dense is None else work.flops / self.dense

    def bound(self, work: Cost) -> str:
        """Which roof is the nearer one for this work."""
        return "memory" if work.bytes / self.bandwidth >= work.flops / self.matrix else "matrix"


@dataclass
class RoofMeter:
    """Probes, run once a round beside the variants; the best of each kind is the roof.

    Memory: a sum over `size` bytes (read) and a copy of one half to the other (read + written), larger than any cache.
    Matrix: a square product in `dtype`, on CPU through MKL and oneDNN; a dtype that the CPU does not
    multiply (float16; bfloat16 on many) is measured in float32, which our kernels compute in there.
    """

    device: torch.device
    dtype: torch.dtype
    size: int = 2**30
    side: int = 0
    _best: dict[str, float] = field(default_factory=dict)
    _dense: dict[str, tuple[Timed, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.side == 0:
            self.side = 8192 if self.device.type == "cuda" else 2048
        half = torch.ones(self.size // 8, device=self.device)
        other = torch.ones_like(half)
        left, right = self._matrix(), self._matrix()
        name = str(left.dtype).removeprefix("torch.")
        self._memory: dict[str, tuple[Timed, int]] = {
            f"read of {self.size >> 20} MiB": (lambda: (half.sum(), other.sum()), self.size),
            f"copy of {self.size >> 21} MiB": (lambda: half.copy_(other), self.size),
        }
        flops = 2 * self.side**3
        self._products: dict[str, tuple[Timed, int]] = {
            f"{name} product of side {self.side}": (lambda: left @ right, flops)
        }
        if one_dnn.takes(left):
            self._products[f"{name} oneDNN product of side {self.side}"] = (lambda: one_dnn.linear(left, right), flops)

    def _matrix(self) -> Tensor:
        narrow = self.device.type == "cpu" and not one_dnn.multiplies(self.dtype)
        dtype = torch.float32 if narrow else self.dtype
        return torch.randn(self.side, self.side, device=self.device).to(dtype)

    def dense(self, call: Timed, flops: float) -> None:
        """From now on, a probe of dense work too."""
        self._dense[_DENSE] = (call, flops)

    def sample(self, clock: HostClock | CudaClock) -> None:
        """Run every probe once."""
        for name, (call, amount) in {**self._memory, **self._products, **self._dense}.items():
            if name not in self._best:
                call()
                self._best[name] = 0.0
            self._best[name] = max(self._best[name], amount / clock.sample(call, 1))

    def roof(self) -> Roof:
        """The best of the probes so far."""
        if not self._best:
            raise RuntimeError("the roof has not been sampled yet")
        bandwidth = max(self._memory, key=lambda name: self._best[name])
        matrix = max(self._products, key=lambda name: self._best[name])
        return Roof(self._best[bandwidth], self._best[matrix], bandwidth, matrix, self._best.get(_DENSE))
