"""Queries over frames of patches: what the cases of the ops on patches are made of."""

from typing import Any

import torch
from torch import Generator

from longreel.testing.cases.case import Case, Inputs, normal

# The vision tower of LLaMA-VID, and its pooling to 4 x 4 without the CLS token.
TOWER: dict[str, Any] = {"rows": 32, "tokens": 257, "width": 1408}
POOL: dict[str, Any] = {"output_size": 4, "num_prefix_tokens": 1}


def frames_case(
    name: str,
    *,
    lead: tuple[int, ...] = (),
    rows: int = 5,
    tokens: int = 10,
    width: int = 24,
    frames: int = 3,
    sharp: float = 1.0,
    masked: bool = False,
    packed: tuple[int, ...] | None = None,
    fast: bool = False,
    **options: Any,
) -> Case:
    """A case of queries over frames. `lead` is query's *q, with -1 for the frames; `packed` gives frame lengths, repeated as
    needed; `masked` keeps about half of the rows and none of the last query set. Scores reach about 4 * `sharp`."""

    def make(generator: Generator, frames: int) -> Inputs:
        sets = tuple(frames if size == -1 else size for size in lead)
        inputs: Inputs = {"query": sharp * normal(generator, *sets, rows, width), **options}
        if packed is None:
            inputs["patches"] = normal(generator, frames, tokens, width)
        else:
            lengths = torch.tensor([0] + [packed[f % len(packed)] for f in range(frames)])
            inputs["cu_seqlens"] = lengths.cumsum(0)
            inputs["patches"] = normal(generator, int(lengths.sum()), width)
        if masked:
            mask = torch.rand(*sets, rows, generator=generator) < 0.5
            mask.view(-1, rows)[-1] = False
            inputs["query_mask"] = mask
        return inputs

    return Case(name, make, frames, fast)
