"""From samples of ids and pictures to a batch: VoCo tokens inserted, rows expanded, layout, positions and labels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from longreel.layout import VideoLayout, ignored_labels, positions

# LLaVA's placeholder of a picture among the ids; expanded, every row of the picture has it.
IMAGE = -200
IGNORED = -100
PADDING, TEXT, VISION, VOCO = range(4)

Mode = Literal["image", "independent", "causal"]


@dataclass(frozen=True)
class VoCoRule:
    """What VoCo tokens there are, and who attends to whom.

    token: the id of the VoCo token. count: VoCo tokens of a group. rows: vision rows of a picture.
    separator: ids between the pictures of a group and its VoCo tokens.
    shared: consecutive pictures (images, tiles) share one group; False: every picture, every frame, has its own.
    mode: "image" is the released rule; of a video each frame attends to itself only ("independent"), or also earlier VoCo tokens
        ("causal"): no released checkpoint validates these.
    text_sees_prefix: False is the released reading, True the paper's: only pictures are hidden from the text.
    frames_see_prefix: rows before the first frame are visible to every frame, else by the first.
    absolute: positions of a video count rows; by default they are compact. Images always count rows.
    """

    token: int
    count: int
    rows: int
    separator: tuple[int, ...] = ()
    shared: bool = True
    mode: Mode = "image"
    text_sees_prefix: bool = False
    frames_see_prefix: bool = False
    absolute: bool = False

    @property
    def frame(self) -> int:
        """Rows of a picture with a group of its own: vision, separator, VoCo tokens."""
        return self.rows + len(self.separator) + self.count

    def insert(self, ids: Sequence[int], labels: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Ids with placeholders, and their labels -> int64 [S] each: every placeholder as often as a picture has rows, separator
        and VoCo tokens behind every group; what is no text has no label."""
        group = [*self.separator, *[self.token] * self.count]
        tokens: list[int] = []
        targets: list[int] = []
        for i, (token, label) in enumerate(zip(ids, labels, strict=True)):
            if token != IMAGE:
                tokens.append(token)
                targets.append(label)
                continue
            goes_on = self.shared and i + 1 < len(ids) and ids[i + 1] == IMAGE
            rows = [IMAGE] * self.rows + ([] if goes_on else group)
            tokens += rows
            targets += [IGNORED] * len(rows)
        return torch.tensor(tokens, dtype=torch.long), torch.tensor(targets, dtype=torch.long)

    def layout(self, ids: Tensor, mask: Tensor) -> VideoLayout:
        """Of expanded ids [B, S]; mask [B, S] is nonzero at real rows."""
        kinds = torch.where(ids == IMAGE, VISION, torch.where(ids == self.token, VOCO, TEXT)) * (mask != 0)
        return VideoLayout.from_kinds(
            kinds,
            mode=self.mode,
            frames_see_prefix=self.frames_see_prefix,
            text_sees_prefix=self.text_sees_prefix,
        )

    def positions(self, layout: VideoLayout) -> Tensor:
        """int64 [B, S], counted from the first real row of every sample."""
        return torch.from_numpy(positions(layout, "absolute" if self.absolute else None)).long()


@dataclass(frozen=True)
class VoCoCollator:
    """Samples -> a batch for `VoCoDecoder` or `VoCoLlama`, padded on `side`.

    A sample has "input_ids" (a placeholder `IMAGE` a picture), "labels" of the same length or none (then every text row behind
    the last VoCo token is a target), and "pixels" or "vision" [pictures, ...] where it has placeholders. Anything longer than
    `max_length` rows is cut at its end; pictures and VoCo tokens are never cut.
    """

    rule: VoCoRule
    pad: int = 0
    side: Literal["left", "right"] = "left"
    max_length: int | None = None

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """input_ids, labels, attention_mask, position_ids [B, S], video_layout, and pixels or vision of all samples in a row."""
        rows = [self._rows(sample) for sample in samples]
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), longest), self.pad)
        labels = torch.full((len(rows), longest), IGNORED)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for b, (own, targets) in enumerate(rows):
            place = slice(longest - len(own), longest) if self.side == "left" else slice(0, len(own))
            ids[b, place], labels[b, place], mask[b, place] = own, targets, 1
            # Nothing predicts the first row of a sample.
            labels[b, place.start] = IGNORED
        layout = self.rule.layout(ids, mask)
        labels[torch.from_numpy(ignored_labels(layout))] = IGNORED
        batch: dict[str, Any] = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        batch |= {"position_ids": self.rule.positions(layout), "video_layout": layout}
        return batch | _stacked(samples)

    def _rows(self, sample: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        given = _listed(sample["input_ids"])
        targets = _listed(sample.get("labels", given))
        if len(targets) != len(given):
            raise ValueError(f"a sample has {len(given)} ids and {len(targets)} labels: they must be as many")
        pictures = next((len(sample[name]) for name in ("pixels", "vision") if name in sample), 0)
        if given.count(IMAGE) != pictures:
            raise ValueError(f"a sample has {given.count(IMAGE)} placeholders ({IMAGE}) and {pictures} pictures")
        ids, labels = self.rule.insert(given, targets)
        if self.max_length is not None and len(ids) > self.max_length:
            vision = torch.nonzero((ids == IMAGE) | (ids == self.rule.token))
            if len(vision) and int(vision[-1]) >= self.max_length:
                raise ValueError(
                    f"max_length={self.max_length} rows would cut pictures or VoCo tokens, which reach row {int(vision[-1])}"
                )
            ids, labels = ids[: self.max_length], labels[: self.max_length]
        return ids, labels


def _listed(ids: Iterable[int] | Tensor) -> list[int]:
    return [int(token) for token in (ids.tolist() if isinstance(ids, (Tensor, np.ndarray)) else ids)]


def _stacked(samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Pictures of all samples, one behind the other."""
    out = {}
    for name in ("pixels", "vision"):
        parts = [sample[name] for sample in samples if name in sample and len(sample[name])]
        if parts:
            out[name] = torch.cat([torch.as_tensor(part) for part in parts])
    return out
