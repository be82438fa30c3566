"""The benchmark of adaptive_pool."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from longreel.bench.patch_case import PatchCase
from longreel.bench.peers import Outputs, Peer, pool_adaptive, pool_matmul


class AdaptivePoolCase(PatchCase):
    INPUTS = ("patches",)
    OUTPUTS = ("content",)
    KEYWORDS = ("output_size",)
    PEERS: ClassVar[Mapping[str, Peer]] = {
        "strong": Peer(pool_adaptive, None, "adaptive_avg_pool2d of the transposed grid"),
        "matmul": Peer(pool_matmul, None, "matrix product with the pooling rows"),
        "compiled": Peer(pool_adaptive, None, "torch.compile of adaptive_avg_pool2d", compiled=True),
    }
    PLAIN: ClassVar[Callable[..., Outputs]] = staticmethod(pool_adaptive)


CASE = AdaptivePoolCase
