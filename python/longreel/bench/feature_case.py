"""The benchmark of the ops on frames of patches, with the patches of a real video: a file that `longreel extract` writes."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from longreel.bench.case import BenchCase, Tensors
from longreel.bench.patch_case import DISTINCT, PatchCase
from longreel.data import FeatureStream
from longreel.measure.machine import Record


@dataclass(frozen=True)
class FeatureCase(PatchCase):
    """`PatchCase` on patches of `features`: frames spread evenly over the file, repeated where the shape has more."""

    features: Path = Path()

    @classmethod
    def of(cls, case: BenchCase, features: Path, frames: int | None) -> "FeatureCase":
        """`case` at the file's shape; `frames` None takes as many as the file has.

        Raises:
            ValueError: an op without patches, a file that cannot be used (MediaError), or patches that are no square.
        """
        if not isinstance(case, PatchCase):
            raise ValueError(f"--features: {case.op} has no patches")
        with FeatureStream(features) as stream:
            there, tokens, width = stream.shape
        patches = math.isqrt(tokens) ** 2
        if tokens - patches > 1:
            raise ValueError(
                f"{features}: {tokens} tokens a frame are neither a square of patches nor one with a CLS token"
            )
        shape = replace(case.shape, frames=frames or there, patches=patches, width=width)
        # the shape and the file here, inputs, outputs and peers by the op's own case
        made = type(cls.__name__, (cls, type(case)), {})
        return made(case.op, shape, case.dtype, case.device, case.backward, features)

    @property
    def facts(self) -> Record:
        return super().facts | {"features": self.features.name}

    @cached_property
    def tensors(self) -> Tensors:
        """As in `PatchCase`; CLS tokens are left out, frames repeat after 61."""
        made = dict(super().tensors)
        with FeatureStream(self.features, chunk=1) as stream:
            there, count = stream.shape[0], min(DISTINCT, self.shape.frames)
            wanted = {index * there // count for index in range(count)}
            rows = [chunk.features[0, -self.shape.patches :] for index, chunk in enumerate(stream) if index in wanted]
        distinct = torch.stack(rows).to(self.device, self.dtype)
        # A file of fewer frames than 61 repeats earlier; the truth is computed for 61 all the same.
        distinct = distinct[torch.arange(DISTINCT, device=self.device) % len(distinct)]
        made["patches"] = distinct[torch.arange(self.shape.frames, device=self.device) % DISTINCT]
        return made
