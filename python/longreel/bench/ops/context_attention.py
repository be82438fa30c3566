"""The benchmark of context_attention."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from longreel.bench.patch_case import PatchCase
from longreel.bench.peers import (
    Outputs,
    Peer,
    context_batched,
    context_naive,
    context_sdpa,
    context_strong,
    context_strong_training,
)


class ContextAttentionCase(PatchCase):
    INPUTS = ("query", "patches")
    OUTPUTS = ("context",)
    KEYWORDS = ()
    PEERS: ClassVar[Mapping[str, Peer]] = {
        "strong": Peer(context_strong, context_strong_training, "chunked, weights collapsed"),
        "naive": Peer(context_naive, None, "as the equation is written", copies=4.0),
        "sdpa": Peer(context_sdpa, None, "scaled_dot_product_attention, then the mean", copies=4.0),
        "batched": Peer(context_batched, None, "weights collapsed, all frames at once"),
        "compiled": Peer(context_batched, None, "torch.compile of the batched form", compiled=True),
    }
    PLAIN: ClassVar[Callable[..., Outputs]] = staticmethod(context_naive)


CASE = ContextAttentionCase
