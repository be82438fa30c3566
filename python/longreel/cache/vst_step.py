"""What a VSTCache counts, and what all layers of one of its steps share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from longreel.cache.compressed import Append
from longreel.cache.saved import Counts
from longreel.layout import PlannedLayout, Segment
from longreel.layout.segments import chunk_of


@dataclass(frozen=True)
class VSTCounts(Counts):
    """prefix, vst: tokens cached of each. carry: visual tokens that the last chunk left without a VST."""

    prefix: int = 0
    vst: int = 0
    carry: int = 0

    @property
    def cached(self) -> int:
        return self.prefix + self.vst


@dataclass(frozen=True)
class Step(Append):
    """What all layers of one step share. plan: of the rows, grouped. cos, sin: of the rows in position order. cached: of
    the rows, the first `cached[0]` (prefix) and the last `cached[1]` (VST) go to the memory."""

    plan: PlannedLayout
    cos: Tensor
    sin: Tensor
    cached: tuple[int, int]


@dataclass(frozen=True)
class TextStep(Step):
    """A step of text. slots: int64 [rows], where its keys and values go in the text's buffers."""

    slots: Tensor


def counts_after(now: VSTCounts, segments: Sequence[Segment]) -> VSTCounts:
    """The counts once these came behind `now`; ValueError where they are no such piece of video."""
    prefix, vst, carry = now.prefix, now.vst, now.carry
    for segment in segments:
        if segment.kind == "prefix":
            if prefix or vst:
                raise ValueError("a prefix stands before the first chunk only")
            prefix = segment.length
        elif segment.kind == "vst":
            if segment.carry != carry:
                raise ValueError(f"{carry} visual tokens are carried into this chunk, its segment says {segment.carry}")
            chunk = chunk_of(segment)
            if not chunk.vst:
                raise ValueError(f"a chunk of {chunk.visual} visual tokens has no VST at ratio {segment.ratio}")
            vst, carry = vst + chunk.vst, chunk.carry_out
        else:
            raise ValueError(f"append takes prefix and vst segments, given {segment.kind}: text is asked on a fork")
    return VSTCounts(prefix + vst, now.hidden, prefix, vst, carry)


def inverse_frequencies(config: PreTrainedConfig, head_dim: int) -> Tensor:
    """Of the default rotary embedding, as transformers computes them: float32."""
    text: Any = config.get_text_config()
    given = getattr(text, "rope_parameters", None) or {}
    kind = given.get("rope_type", "default")
    scaling = getattr(text, "rope_scaling", None)
    if kind != "default" or (scaling and scaling.get("rope_type", scaling.get("type", "default")) != "default"):
        raise ValueError(f"rotary embeddings {scaling or given} are not the default ones: give the model's inv_freq")
    if any(isinstance(value, dict) for value in given.values()):
        raise ValueError(f"rotary embeddings {given} differ between layers: the cache has one for all")
    part = given.get("partial_rotary_factor") or getattr(text, "partial_rotary_factor", None) or 1
    if part != 1:
        raise ValueError(f"partial_rotary_factor={part}: the cache rotates whole heads")
    theta = float(given.get("rope_theta", getattr(text, "rope_theta", 1e4)))
    return 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim))
