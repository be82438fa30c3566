"""Training: all chunks of a sample in one differentiable pass, and the loss over them as published."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from longreel.layout import VideoLayout
from longreel.models.video_xl.attention import LayoutRows, Rows

# LLaVA's placeholder of a picture among the ids, and what is no target among labels.
IMAGE = -200
IGNORED = -100
# Keywords that training loops pass along and that say nothing here.
_HARMLESS = ("use_cache", "return_dict", "output_attentions", "output_hidden_states")


class Decoder(Protocol):
    """What is asked of a `VSTDecoder`; see there."""

    per_picture: int
    inv_freq: Tensor
    constant_layer: int
    backend: str | None

    @property
    def width(self) -> int: ...
    @property
    def vst(self) -> Tensor: ...
    def embed(self, ids: Tensor) -> Tensor: ...
    def windows(self, visual: int) -> list[tuple[int, int]]: ...
    def rows(self, embeds: Tensor, rows: Rows) -> Tensor: ...
    def logits(self, hidden: Tensor) -> Tensor: ...


def forward(
    decoder: Decoder, input_ids: Tensor, vision: Tensor | None, labels: Tensor | None, **inputs: Any
) -> CausalLMOutput:
    """Samples with all their chunks in one pass each, differentiable from the answer's loss to the first frame.

    Args:
        input_ids: int64 [B, S], an IMAGE a picture, all of a sample in one run. vision: [pictures, per_picture, E] of all
            samples, in order. labels: [B, S], IGNORED at what is no target; the last visual token predicts the first id
            behind the pictures.
        inputs: attention_mask [B, S], nonzero at real ids; num_items_in_batch: of the loss's mean, by default the labels.

    Returns:
        loss, where labels are given, as published: the mean over all targets. Else logits [B, rows, V] of every id and
        visual token, VST left out, for samples of one length.

    Raises:
        ValueError: shapes that do not fit, pictures with text between them, or a keyword that is not taken.
    """
    mask, count = inputs.pop("attention_mask", None), inputs.pop("num_items_in_batch", None)
    unknown = sorted(name for name, value in inputs.items() if value is not None and name not in _HARMLESS)
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: a batch is input_ids, vision, labels, attention_mask")
    for name, given in (("labels", labels), ("attention_mask", mask)):
        if input_ids.dim() != 2 or (given is not None and given.shape != input_ids.shape):
            shape = None if given is None else list(given.shape)
            raise ValueError(f"input_ids is [B, S], and {name} too: given {list(input_ids.shape)} and {shape}")
    losses, outs, taken, targets = list[Tensor](), list[Tensor](), 0, 0
    for b, row in enumerate(input_ids):
        real = torch.ones_like(row, dtype=torch.bool) if mask is None else mask[b] != 0
        ids = row[real]
        pictures = int((ids == IMAGE).sum())
        own = None if vision is None else vision[taken : taken + pictures]
        wanted_shape = [pictures, decoder.per_picture, decoder.width]
        own_shape = None if own is None else list(own.shape)
        if pictures and own_shape != wanted_shape:
            raise ValueError(f"sample {b} has {pictures} pictures: vision is {wanted_shape} for it, given {own_shape}")
        taken += pictures
        hidden, at = _hidden(decoder, ids, own if own is None else own.flatten(0, 1))
        if labels is None:
            outs.append(decoder.logits(hidden))
            continue
        # Every id but the first is predicted by the row before it.
        wanted = labels[b][real][1:].to(hidden.device)
        chosen = (wanted != IGNORED) & (ids[1:].to(hidden.device) != IMAGE)
        logits = decoder.logits(hidden[:, at[:-1][chosen]])[0]
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses.append(nn.functional.cross_entropy(wide, wanted[chosen], reduction="sum"))
        targets += int(chosen.sum())
    if vision is not None and taken != len(vision):
        raise ValueError(f"the ids have {taken} pictures, {len(vision)} are given")
    if labels is None:
        return CausalLMOutput(logits=torch.cat(outs))
    total = torch.stack(losses).sum() / (max(targets, 1) if count is None else count)
    return CausalLMOutput(loss=total)


def _hidden(decoder: Decoder, ids: Tensor, visual: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of one sample: hidden states [1, raw, E], and the row [S] that stands for every id: of a picture its last."""
    where = torch.nonzero(ids == IMAGE).flatten()
    pictures = len(where)
    if pictures and int(where[-1] - where[0]) != pictures - 1:
        raise ValueError("the pictures of a sample stand in one run: VST tokens do not summarise text between them")
    first = int(where[0]) if pictures else len(ids)
    before, after = ids[:first], ids[first + pictures :]
    parts = [decoder.embed(before)]
    if visual is not None and pictures:
        parts.append(visual[None].to(parts[0]))
    parts.append(decoder.embed(after))
    windows = decoder.windows(pictures * decoder.per_picture) if pictures else []
    layout = VideoLayout.vst(ratio=windows, prefix=len(before), text=len(after))
    rows = LayoutRows(
        layout, decoder.inv_freq, device=parts[0].device, constant_vst=decoder.constant_layer, backend=decoder.backend
    )
    parts.append(decoder.vst.expand(1, layout.length - rows.n_raw, -1))
    taken = torch.ones(len(ids), dtype=torch.long)
    taken[first : first + pictures] = decoder.per_picture
    return decoder.rows(torch.cat(parts, 1), rows)[:, : rows.n_raw], (taken.cumsum(0) - 1).to(parts[0].device)
