"""The benchmark of compress_frames."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from longreel.bench.patch_case import PatchCase
from longreel.bench.peers import (
    Outputs,
    Peer,
    compress_batched,
    compress_naive,
    compress_strong,
    compress_strong_training,
)


class CompressFramesCase(PatchCase):
    INPUTS = ("query", "patches")
    OUTPUTS = ("context", "content")
    KEYWORDS = ("output_size",)
    PEERS: ClassVar[Mapping[str, Peer]] = {
        "strong": Peer(
            compress_strong, compress_strong_training, "chunked, weights collapsed, pooling in the same bmm"
        ),
        "naive": Peer(compress_naive, None, "as the equations are written", copies=5.0),
        "batched": Peer(compress_batched, None, "weights collapsed, pooling in the same bmm, all frames at once"),
        "compiled": Peer(compress_batched, None, "torch.compile of the batched form", compiled=True),
    }
    PLAIN: ClassVar[Callable[..., Outputs]] = staticmethod(compress_naive)


CASE = CompressFramesCase
