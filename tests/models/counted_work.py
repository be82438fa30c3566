"""Work that a path does, counted: FLOPs of PyTorch's matrix products, and (query, key) pairs of longreel's own attention."""

from collections import defaultdict
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from longreel.models.inputs import Input
from longreel.models.system import Chunk, InputFacts


class CountedWork(TorchDispatchMode):
    """flops: of products and PyTorch's attention. calls: of every op, by name. memory_pairs: of rows with entries of a memory
    over all heads, in `vst_attention`."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.memory_pairs = 0
        self.calls: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        self.calls[str(packet)] += 1
        if packet in (torch.ops.aten.linear, torch.ops.aten.matmul):
            # Whole under inference_mode.
            x, other = args[:2]
            self.flops += 2 * x.numel() * (other.shape[0] if packet is torch.ops.aten.linear else other.shape[-1])
        elif packet in flop_registry:
            self.flops += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        if str(packet) == "longreel.vst_attention":
            names = [argument.name for argument in func._schema.arguments]
            given: dict[str, Any] = dict(zip(names, args, strict=False)) | (kwargs or {})
            q: Tensor = given["q"]
            with torch.utils._python_dispatch._disable_current_modes():
                self.memory_pairs += q.shape[1] * q.shape[2] * int(given["mem_len"].sum())
        return out


@torch.inference_mode()
def counted(setup: Any, frames: int, chunk: int) -> CountedWork:
    """Of so many frames' features, seen and not yet asked about."""
    prompts = setup.prompts(["Why?"])
    model = setup.model(Input(InputFacts(setup.prefix, False, frames)), prompts)
    session = setup.system.session(model, prompts, "longreel", expected=frames, compare=False)
    size, work = setup.preset.tower, CountedWork()
    with work:
        for begin in range(0, frames, chunk):
            seen = torch.zeros(min(chunk, frames - begin), size.patches + setup.prefix, size.width)
            session.consume(Chunk(seen), _untimed)
        session.finish(_untimed)
    return work


def _untimed(_: str) -> Any:
    return nullcontext()
