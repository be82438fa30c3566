"""Token ids and what goes beside them, with some tokens taken out: rows are moved together, and padded where padding was."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# What of a model's inputs has a place for every token, and what a padded place holds.
BESIDE = {"attention_mask": 0, "mm_token_type_ids": 0, "token_type_ids": 0, "labels": -100}
# They say where video is to be found, for positions that are made already.
TYPES = ("mm_token_type_ids",)


@dataclass(frozen=True)
class TokenRows:
    """index: int64 [B, S'], which of the S tokens stands at a place; filled: bool [B, S'], whether one does."""

    index: Tensor
    filled: Tensor

    def of(self, x: Tensor, padding: int) -> Tensor:
        """[..., B, S'] of x [..., B, S]."""
        index = self.index.expand(*x.shape[:-1], -1)
        return x.gather(-1, index).masked_fill(~self.filled, padding)


def rows_of(stays: Tensor, mask: Tensor) -> TokenRows:
    """The tokens that stay, bool [B, S], all attended in mask [B, S]. If all attended ones do, nothing moves.

    Raises:
        ValueError: a row without a token.
    """
    batch, length = mask.shape
    if torch.equal(stays, mask):
        return TokenRows(torch.arange(length, device=mask.device).expand(batch, -1), mask)
    counts = stays.sum(1)
    most = int(counts.max())
    place = torch.arange(most, device=mask.device)
    # Generation reads the last place of a row: padding stands left, unless what came stands right.
    right = bool((mask[:, 0] & ~mask[:, -1]).any())
    begin = torch.zeros_like(counts) if right else most - counts
    filled = (place >= begin[:, None]) & (place < (begin + counts)[:, None])
    index = torch.zeros(batch, most, dtype=torch.int64, device=mask.device)
    index[filled] = stays.nonzero()[:, 1]
    return TokenRows(index, filled)


def positions(mask: Tensor) -> Tensor:
    """int64 [B, S] as transformers numbers attended tokens of mask [B, S] without a cache; 0 at the others."""
    return (mask.long().cumsum(-1) - 1).masked_fill(~mask, 0)


def check(inputs: dict[str, Any], shape: torch.Size, known: set[str]) -> None:
    """
    Raises:
        ValueError: inputs that would no longer fit shortened token ids.
    """
    for key, value in inputs.items():
        if value is None or key in known or key in BESIDE:
            continue
        vision = key.startswith(("video_", "image_", "pixel_"))
        if vision or key in ("position_ids", "inputs_embeds", "past_key_values", "cache", "mm_encoder_outputs"):
            raise ValueError(
                f"compress_video does not take {key}: it makes the vision features and positions of a whole prompt"
            )
        if isinstance(value, Tensor) and value.dim() > 1 and value.shape[:2] == shape:
            raise ValueError(f"compress_video does not know how to shorten {key} {list(value.shape)}")
