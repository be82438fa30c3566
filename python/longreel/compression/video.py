"""compress_video(): the inputs of a video model of transformers with fewer video tokens."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from longreel import _transformers
from longreel.compression import towers
from longreel.compression.choose import share_out
from longreel.compression.cuts import METHODS, Cut, cut
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
    """Keyword arguments for a model's ``forward`` and ``generate``. `cuts`: what stayed of each video, in their order."""

    cuts: tuple[VideoCut, ...]


@torch.no_grad()
def compress_video(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    method: str = "evs",
    keep: float | None = None,
    tokens: int | None = None,
    query: Tensor | Sequence[Tensor] | None = None,
    chunk_frames: int = 64,
) -> CompressedInputs:
    """Inputs of a video model with fewer video tokens, by transformers' public arguments: no weight and no class is touched.

    The model's own tower is run once, in chunks of frames. What stays keeps its position (of time, height and width where the
    model has them), all text stays (timestamps among it), images stay whole. The count is exact, and of equal scores the first
    token wins.
    With ``keep=1`` nothing is scored and the model's logits are its own, bit for bit, as long as the videos have no more than
    `chunk_frames` frames together (the tower's products may round otherwise in pieces).

    Methods:
        "pool": adaptive average pooling of every frame (`adaptive_pool`) to the largest grid of its shape that fits, so that the
            count may be smaller; a cell has the position of the token in its middle.
        "context": saliency by query, the weights of LLaMA-VID's context token (arXiv 2311.17043, equation 1) over the video.
        "evs": difference in time, Efficient Video Sampling (arXiv 2510.14624): 1 - cos to the token before, first frame first.
        "vidcom2": uniqueness, VidCom2 (arXiv 2505.14454): budgets by frame, then tokens unlike their frame and the video.
        "merge": density peaks within segments, each the average of the tokens about it, in the manner of FastVID (arXiv
            2503.11187).

    Args:
        model: Qwen2-VL, Qwen2.5-VL, Qwen3-VL, VideoLLaMA3, LLaVA-OneVision, InternVL or SmolVLM of transformers 5.18 or newer,
            as it is generated with. InternVL and SmolVLM have pictures and no videos: all pictures of a row are one video.
        inputs: what the processor gives: input_ids ``[B, S]``, attention_mask, pixels and grids; rows padded on either side.
        method: one of the above.
        keep: share of each video's tokens that stays, above 0 and up to 1; the nearest count, at least one.
        tokens: instead of `keep`: video tokens that a row of the batch may have, shared by its videos by their lengths.
        query: "context" alone: ``[M, C]`` in the decoder's width C, or one a row. None: the embeddings of the text behind a row's
            last video token.
        chunk_frames: frames (of a tower's time step) that go through the tower at a time.

    Returns:
        Keyword arguments for ``model(**...)`` and ``model.generate(**...)``, with `cuts`. `rope_deltas` of the model are set, as
        its own forward does, for calls that continue behind these inputs.

    Raises:
        ImportError: transformers is absent or older than 5.18.
        ValueError: a model, inputs or options that cannot be compressed, and why.
    """
    _transformers.require("compress_video")
    family = family_of(model)
    given = {key: value for key, value in inputs.items() if value is not None}
    _check_options(family, given, method, keep, tokens, query, chunk_frames)
    base = getattr(model, getattr(model, "base_model_prefix", ""), model)
    ids = given["input_ids"]
    mask = given.get("attention_mask", torch.ones_like(ids)).bool()
    used = _used(base, family)
    check(given, ids.shape, used | {"input_ids"})
    slots = ids == getattr(base.config, f"{family.modality}_token_id")
    _check_rows(mask, slots)
    videos = towers.encode(family, base, given, chunk_frames)
    rows = _rows_of_videos(videos, slots)
    counts = _counts(videos, rows, keep, tokens)
    cuts = []
    for video, row, count in zip(videos, rows, counts, strict=True):
        asked = _query(model, ids, mask, slots, row, query) if method == "context" else None
        cuts.append(cut(video.frames, method, count, grid=video.grid, query=asked, alive=video.alive))
    stays = mask.clone()
    stays[slots] = torch.cat([_stays(video, one) for video, one in zip(videos, cuts, strict=True)]).to(mask.device)
    outputs = {family.modality: _output(family, videos, cuts)}
    if family.modality == "video" and "pixel_values" in given:
        outputs["image"] = towers.call_of(base, "image", given)()
    out = CompressedInputs({key: value for key, value in given.items() if key not in used | BESIDE.keys()})
    out |= _shortened(base, family, given, mask, stays) | {"mm_encoder_outputs": outputs}
    out.cuts = tuple(
        VideoCut(row, one.shape, video.grid, one.kept, video.total)
        for video, row, one in zip(videos, rows, cuts, strict=True)
    )
    return out


def _shortened(base: Any, family: Family, given: dict[str, Any], mask: Tensor, stays: Tensor) -> dict[str, Any]:
    """Token ids, what has a place for each, and positions, of the tokens that stay."""
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
    elif not whole:
        # Without a cache and a mask, as generate drops one that is all ones, positions that jump are taken for packed samples.
        out |= {"position_ids": moved.of(positions(mask), 0), "use_cache": True}
    return out


def _check_options(
    family: Family, given: dict[str, Any], method: str, keep: Any, tokens: Any, query: Any, chunk_frames: int
) -> None:
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; allowed: {', '.join(METHODS)}")
    if (keep is None) == (tokens is None):
        raise ValueError(
            f"give one of keep (a share) and tokens (a budget of each row), not keep={keep}, tokens={tokens}"
        )
    if keep is not None and not 0 < keep <= 1:
        raise ValueError(f"keep is {keep}; allowed: above 0 and up to 1")
    if tokens is not None and tokens < 1:
        raise ValueError(f"tokens is {tokens}; allowed: 1 and more")
    if query is not None and method != "context":
        raise ValueError(f"a query is read by method 'context' alone, the method is {method!r}")
    if chunk_frames < 1:
        raise ValueError(f"chunk_frames is {chunk_frames}; allowed: 1 and more")
    for key in ("input_ids", family.pixels):
        if key not in given:
            raise ValueError(f"compress_video needs {key} among the inputs, given: {', '.join(given)}")


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


def _counts(videos: list[EncodedVideo], rows: list[int], keep: float | None, tokens: int | None) -> list[int]:
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


def _query(model: Any, ids: Tensor, mask: Tensor, slots: Tensor, row: int, query: Any) -> Tensor:
    """[M, C]"""
    if query is None:
        behind = int(slots[row].nonzero()[-1]) + 1
        asked: Tensor = model.get_input_embeddings()(ids[row, behind:][mask[row, behind:]])
    else:
        asked = query if isinstance(query, Tensor) else query[row]
    width = model.get_input_embeddings().weight.shape[-1]
    if asked.dim() != 2 or asked.shape[1] != width or len(asked) == 0:
        raise ValueError(f"query must be [M, {width}] with a token at least, given {list(asked.shape)}")
    return asked


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
    if family.stacked:
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
