"""plan_compression(): tokens and bytes that compress_video leaves, before the tower is run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from longreel.compression.families import family_of


@dataclass(frozen=True)
class CompressionPlan:
    """Of all rows of a batch; bytes.

    ::

        tokens, kept: of videos, before and behind the cut. prompt: of the longest row behind it, text included.
        kv, kv_whole: keys and values of all rows once the prompt is read, with the cut and without.
        weights: of the model. features: of all video tokens, which stand in memory until they are cut.
        room, fits: what was given, and whether it is enough; None where it was not.
        most: the largest share `keep` that fits; None where no room was given, 0 where nothing does.
    """

    tokens: int
    kept: int
    prompt: int
    kv: int
    kv_whole: int
    weights: int
    features: int
    room: int | None
    most: float | None

    @property
    def total(self) -> int:
        """The model, the features, and the keys and values; what a tower takes for a chunk of frames, and a layer for the prompt,
        comes on top."""
        return self.weights + self.features + self.kv

    @property
    def fits(self) -> bool | None:
        return None if self.room is None else self.total <= self.room


def plan_compression(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    keep: float = 1.0,
    answer_tokens: int = 0,
    memory: int | None = None,
) -> CompressionPlan:
    """What `compress_video(model, inputs, keep=keep)` leaves, counted from placeholders: nothing is run, a model on meta will do.

    Args:
        model, inputs, keep: as of `compress_video`. Several videos of a row are counted as one, which may be a token a
            video off. answer_tokens: that follow. memory: bytes that there are.

    Raises:
        ValueError: a model that is not covered, a share outside 0 .. 1, or no placeholder of a video.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep}; allowed: above 0 and up to 1")
    family = family_of(model)
    base = getattr(model, getattr(model, "base_model_prefix", ""), model)
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    read = (torch.ones_like(ids) if mask is None else mask.to(ids)).sum(1).tolist()
    videos = (ids == getattr(base.config, f"{family.modality}_token_id")).sum(1).tolist()
    if not sum(videos):
        raise ValueError("input_ids have no placeholder of a video")
    text = base.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    token = 2 * text.num_hidden_layers * heads * head * dtype.itemsize

    def kept_at(share: float) -> list[int]:
        return [max(1, round(share * count)) if count else 0 for count in videos]

    def longest(share: float) -> int:
        return max(all_ - video + kept for all_, video, kept in zip(read, videos, kept_at(share), strict=True))

    def kv(share: float) -> int:
        # Shorter rows are padded to the longest.
        return len(videos) * (longest(share) + answer_tokens) * token

    weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    features = sum(videos) * text.hidden_size * dtype.itemsize

    def planned(share: float, most: float | None) -> CompressionPlan:
        return CompressionPlan(
            sum(videos), sum(kept_at(share)), longest(share), kv(share), kv(1.0), weights, features, memory, most
        )

    most = None
    if memory is not None:
        shares = [percent / 100 for percent in range(100, 0, -1)]
        most = next((share for share in shares if planned(share, None).fits), 0.0)
    return planned(keep, most)
