"""A prompt with videos whose tower has been run: cut as often as is asked."""

import inspect
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from longreel.compression import towers
from longreel.compression.choose import share_out
from longreel.compression.cuts import Cut, cut
from longreel.compression.families import Family, family_of
from longreel.compression.tokens import BESIDE, TYPES, check, positions, rows_of
from longreel.compression.towers import EncodedVideo


@dataclass(frozen=True)
class VideoCut:
    """What stayed of one video. row: of the batch. shape: frames and tokens of a frame. grid: (height, width) of a frame. kept:
    int64 ``[K]``, ascending, numbers among the frames' tokens whose places stayed. tokens: how many there were."""

    row: int
    shape: tuple[int, int]
    grid: tuple[int, int]
    kept: Tensor
    tokens: int


class CompressedInputs(dict[str, Any]):
    """Keyword arguments for a model's ``forward`` and ``generate``. `cuts`: what stayed of each video, in their order.
    `next_position`: int64 ``[B]``, where text behind these inputs goes on, as behind all tokens."""

    cuts: tuple[VideoCut, ...]
    next_position: Tensor


@dataclass(frozen=True)
class VideoPrompt:
    """A model and its inputs. base: what of the model reads pixels. mask, slots: bool [B, S], tokens that are attended, and
    placeholders of videos. videos, rows: in their order, and the row of each. used: inputs that they are made of."""

    model: Any
    base: Any
    family: Family
    given: dict[str, Any]
    mask: Tensor
    slots: Tensor
    videos: list[EncodedVideo]
    rows: list[int]
    used: set[str]

    def cuts(self, method: str, counts: list[int], query: Any = None) -> list[Cut]:
        """Of each video; query: [M, C], one a row, or None."""
        found = []
        for video, row, count in zip(self.videos, self.rows, counts, strict=True):
            asked = self._query(row, query) if method == "context" else None
            found.append(cut(video.frames, method, count, grid=video.grid, query=asked, alive=video.alive))
        return found

    def inputs(self, cuts: list[Cut]) -> CompressedInputs:
        """For forward and generate."""
        stays = self.mask.clone()
        flags = [_stays(video, one) for video, one in zip(self.videos, cuts, strict=True)]
        stays[self.slots] = torch.cat(flags).to(stays.device)
        outputs = {self.family.modality: _output(self.family, self.videos, cuts)}
        if self.images is not None:
            outputs["image"] = self.images
        out = CompressedInputs({k: v for k, v in self.given.items() if k not in self.used | BESIDE.keys()})
        short, out.next_position = _shortened(self.base, self.family, self.given, self.mask, stays)
        out |= short | {"mm_encoder_outputs": outputs}
        out.cuts = tuple(
            VideoCut(row, one.shape, video.grid, one.kept, video.total)
            for video, row, one in zip(self.videos, self.rows, cuts, strict=True)
        )
        return out

    @cached_property
    def images(self) -> Any:
        """The tower's output of pictures beside the videos, which stay whole; None: there are none."""
        beside = self.family.modality == "video" and "pixel_values" in self.given
        return towers.call_of(self.base, "image", self.given)() if beside else None

    def _query(self, row: int, query: Any) -> Tensor:
        """[M, C]: of what is given, or the embeddings of the text behind the row's last video token."""
        ids, embed = self.given["input_ids"][row], self.model.get_input_embeddings()
        if query is None:
            query = embed(ids[self.behind[row]])
        elif not isinstance(query, Tensor):
            query = query[row]
        width = embed.weight.shape[-1]
        if query.dim() != 2 or query.shape[1] != width or len(query) == 0:
            raise ValueError(f"query must be [M, {width}] with a token at least, given {list(query.shape)}")
        return query

    @cached_property
    def behind(self) -> Tensor:
        """bool [B, S]: attended tokens behind the last video token of their row."""
        later = self.slots.flip(1).cumsum(1).flip(1)
        return self.mask & (later == 0)


def read(model: Any, inputs: Any, chunk_frames: int) -> VideoPrompt:
    """Checks, then the tower.

    Raises:
        ValueError: a model or inputs that cannot be compressed, and why.
    """
    family = family_of(model)
    given = {key: value for key, value in inputs.items() if value is not None}
    for key in ("input_ids", family.pixels):
        if key not in given:
            raise ValueError(f"compress_video needs {key} among the inputs, given: {', '.join(given)}")
    if chunk_frames < 1:
        raise ValueError(f"chunk_frames is {chunk_frames}; allowed: 1 and more")
    base = getattr(model, getattr(model, "base_model_prefix", ""), model)
    ids = given["input_ids"]
    mask = given.get("attention_mask", torch.ones_like(ids)).bool()
    if ids.dim() != 2 or mask.shape != ids.shape:
        raise ValueError(
            f"input_ids and attention_mask must be [B, S] both, given {list(ids.shape)} and {list(mask.shape)}"
        )
    used = _used(base, family)
    check(given, ids.shape, used | {"input_ids"})
    slots = ids == getattr(base.config, f"{family.modality}_token_id")
    _check_rows(mask, slots)
    videos = towers.encode(family, base, given, chunk_frames)
    return VideoPrompt(model, base, family, given, mask, slots, videos, _rows_of_videos(videos, slots), used)


def counts_of(videos: list[EncodedVideo], rows: list[int], keep: float | None, tokens: int | None) -> list[int]:
    """Tokens of each video that stay."""
    if keep is not None:
        return [max(1, round(keep * video.total)) for video in videos]
    assert tokens is not None
    counts: list[int] = []
    for row in sorted(set(rows)):
        here = torch.tensor([video.total for video, at in zip(videos, rows, strict=True) if at == row])
        if tokens < len(here):
            raise ValueError(f"tokens is {tokens}, and row {row} has {len(here)} videos: each keeps one at least")
        counts += share_out(min(tokens, int(here.sum())), here, here).tolist()
    return counts


def _shortened(
    base: Any, family: Family, given: dict[str, Any], mask: Tensor, stays: Tensor
) -> tuple[dict[str, Any], Tensor]:
    """Token ids, what has a place for each, and positions, of the tokens that stay; and the position behind all."""
    ids, moved = given["input_ids"], rows_of(stays, mask)
    whole = torch.equal(stays, mask)
    hidden = ids[~mask]
    padding = int(hidden[0]) if len(hidden) else getattr(base.config.get_text_config(), "pad_token_id", None) or 0
    out = {"input_ids": ids if whole else moved.of(ids, padding)}
    out |= {key: moved.of(given[key], fill) for key, fill in BESIDE.items() if key in given and key not in TYPES}
    if not whole:
        out["attention_mask"] = moved.filled.to(given.get("attention_mask", ids).dtype)
    if family.rotary:
        names = inspect.signature(base.get_rope_index).parameters
        types = (ids == base.config.image_token_id).int() + 2 * (ids == base.config.video_token_id).int()
        known = given | {"mm_token_type_ids": types, "attention_mask": mask.long()}
        turned, deltas = base.get_rope_index(**{key: known[key] for key in names if key in known})
        out["position_ids"] = torch.cat([positions(moved.filled)[None], moved.of(turned, 0)])
        base.rope_deltas = deltas + (mask.sum(1) - stays.sum(1))[:, None]
        return out, deltas[:, 0] + mask.sum(1)
    if not whole:
        # Without a cache and a mask, as generate drops one that is all ones, positions that jump are taken for packed samples.
        out |= {"position_ids": moved.of(positions(mask), 0), "use_cache": True}
    return out, mask.sum(1)


def _used(base: Any, family: Family) -> set[str]:
    """Inputs that the towers and the positions read: what is made of them stands in the result."""
    names = {"input_ids", "video_compression_mask", "image_sizes_videos"}
    functions = [getattr(base, f"get_{modality}_features", None) for modality in {"image", family.modality}]
    functions += [getattr(base, "get_rope_index", None)]
    for function in functions:
        names |= set(inspect.signature(function).parameters) if function is not None else set()
    return names - BESIDE.keys() - {"kwargs"}


def _check_rows(mask: Tensor, slots: Tensor) -> None:
    if not bool(slots.any()):
        raise ValueError("input_ids have no placeholder of a video")
    if bool((slots & ~mask).any()):
        raise ValueError("attention_mask hides placeholders of a video")
    place = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, place, -1).amax(1, keepdim=True)
    if bool(slots.gather(1, last.clamp(min=0)).any()):
        raise ValueError("a row ends in a video: what is generated has its positions from text behind it")


def _rows_of_videos(videos: list[EncodedVideo], slots: Tensor) -> list[int]:
    """The row of each video, by placeholders."""
    ends = list(accumulate(slots.sum(1).tolist()))
    rows, at = [], 0
    for a, b in pairwise(accumulate((video.placeholders for video in videos), initial=0)):
        while at < len(ends) - 1 and ends[at] <= a:
            at += 1
        if b > ends[at]:
            break
        rows.append(at)
    if len(rows) < len(videos) or sum(video.placeholders for video in videos) != ends[-1]:
        raise ValueError(
            f"videos of {[video.placeholders for video in videos]} tokens do not fit placeholders {slots.sum(1).tolist()} of the"
            " rows"
        )
    return rows


def _stays(video: EncodedVideo, one: Cut) -> Tensor:
    """bool, a placeholder of the video each."""
    flags = torch.zeros(one.shape[0] * one.shape[1], dtype=torch.bool)
    flags[one.kept] = True
    if video.alive is not None:
        flags = flags[video.alive.flatten().cpu()]
    return flags if video.tail is None else torch.cat([flags, flags.new_ones(len(video.tail))])


def _output(family: Family, videos: list[EncodedVideo], cuts: list[Cut]) -> Any:
    """A tower's output with what stays."""
    pieces = []
    for video, one in zip(videos, cuts, strict=True):
        piece = one.of(video.frames)
        pieces.append(piece if video.tail is None else torch.cat([piece, video.tail]))
    pooled: Any = pieces
    if videos[0].pieces:
        pooled = torch.cat(pieces)[:, None]
    elif family.stacked:
        # Of other lengths they are [sum K, C], which transformers reads, and cannot repeat for beams without a complaint.
        pooled = torch.stack(pieces) if len({len(piece) for piece in pieces}) == 1 else torch.cat(pieces)
    layers = zip(*(video.layers for video in videos), strict=True)
    stacks = [[one.of(layer) for one, layer in zip(cuts, each, strict=True)] for each in layers]
    return _of_type(videos[0].output, pooled, stacks)


def _of_type(kind: Any, pooled: Any, stacks: list[Any]) -> Any:
    if stacks:
        return kind(pooler_output=pooled, deepstack_features=stacks)
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(pooler_output=pooled)
