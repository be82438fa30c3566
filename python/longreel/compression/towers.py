"""A model's own vision tower, in chunks of frames: the features of each video, as its decoder would get them."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from math import isqrt
from typing import Any

from torch import Tensor

from longreel.compression.families import Family


@dataclass(frozen=True)
class EncodedVideo:
    """frames: [T, N, C], N = height * width of the grid. layers: what the decoder adds in its first layers, each [T, N, C].
    alive: bool [T, N], the tokens that have a placeholder, None where all have. tail: [n, C], tokens behind the last frame, which
    stay. output: the type of the tower's output. pieces: whether its features are one tensor of pieces of a length, not a row's.
    """

    frames: Tensor
    grid: tuple[int, int]
    output: type
    layers: tuple[Tensor, ...] = ()
    alive: Tensor | None = None
    tail: Tensor | None = None
    pieces: bool = False

    @property
    def total(self) -> int:
        """Tokens that may be cut."""
        return self.frames.shape[0] * self.frames.shape[1] if self.alive is None else int(self.alive.sum())

    @property
    def placeholders(self) -> int:
        return self.total + (0 if self.tail is None else len(self.tail))


# The model's get_video_features or get_image_features with what of the inputs it takes; keywords change some of that.
Call = Callable[..., Any]
EncodedVideos = Iterator[EncodedVideo]


def call_of(base: Any, modality: str, inputs: dict[str, Any]) -> Call:
    function = getattr(base, f"get_{modality}_features")
    given = {key: inputs[key] for key in inspect.signature(function).parameters if key in inputs}
    return lambda **changed: function(**given | changed, return_dict=True)


def encode(family: Family, base: Any, inputs: dict[str, Any], chunk: int) -> list[EncodedVideo]:
    """The videos of the inputs in their order. Up to `chunk` frames of all together go through the tower in the model's own call,
    more in calls of that many, each freed before the next."""
    return list(_KINDS[family.kind](call_of(base, family.modality, inputs), inputs, base.config, chunk))


def _packed(call: Call, inputs: dict[str, Any], config: Any, chunk: int) -> EncodedVideos:
    """Patches of all videos in one tensor [sum T H W, C], their grids int64 [videos, 3]; output [videos][T * N, C]."""
    pixels, grids = inputs["pixel_values_videos"], inputs["video_grid_thw"]
    merges = inputs.get("video_merge_sizes")
    sides = [config.vision_config.spatial_merge_size] * len(grids) if merges is None else merges.tolist()
    sizes = grids.tolist()
    ends = list(accumulate((t * h * w for t, h, w in sizes), initial=0))
    if ends[-1] != len(pixels):
        raise ValueError(f"video_grid_thw expects {ends[-1]} patches, pixel_values_videos has {len(pixels)}")
    together = call() if sum(t for t, _, _ in sizes) <= chunk else None
    alive, at = inputs.get("video_compression_mask"), 0
    for i, ((t, h, w), side) in enumerate(zip(sizes, sides, strict=True)):
        grid = (h // side, w // side)
        patches = pixels[ends[i] : ends[i + 1]].unflatten(0, (t, h * w))

        def part(a: int, b: int, i: int = i, patches: Tensor = patches, tokens: int = grid[0] * grid[1]) -> list[Any]:
            output, place = together, i
            if output is None:
                grid_of = grids[i : i + 1].clone()
                grid_of[0, 0] = b - a
                given = {"pixel_values_videos": patches[a:b].flatten(0, 1), "video_grid_thw": grid_of}
                output = call(**given, **({} if merges is None else {"video_merge_sizes": merges[i : i + 1]}))
                place = 0
            found = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
            return [type(output), *(one[place].unflatten(0, (-1, tokens)) for one in found)]

        kind, frames, *layers = _joined(part, t, t if together is not None else chunk)
        there = None
        if alive is not None:
            there = alive[at : at + t * grid[0] * grid[1]].unflatten(0, (t, -1))
            at += there.numel()
        yield EncodedVideo(frames, grid, kind, tuple(layers), there)


def _clips(call: Call, inputs: dict[str, Any], config: Any, chunk: int, behind: int) -> EncodedVideos:
    """Clips [videos, T, 3, H, W]; output [videos, T * N + behind, C], the last tokens behind all frames."""
    pixels = inputs["pixel_values_videos"]
    many, t = pixels.shape[:2]
    together = call() if many * t <= chunk else None
    tail: list[Tensor] = []
    for i in range(many):

        def part(a: int, b: int, i: int = i) -> list[Any]:
            output = call(pixel_values_videos=pixels[i : i + 1, a:b]) if together is None else together
            # In transformers 5.18 those of LLaVA-NeXT-Video are [T, N, C].
            tokens = output.pooler_output[0 if together is None else i].flatten(0, -2)
            end = len(tokens) - behind
            tail[:] = [tokens[end:]]
            return [type(output), tokens[:end].unflatten(0, (b - a, -1))]

        kind, frames = _joined(part, t, t if together is not None else chunk)
        yield EncodedVideo(frames, _square(frames.shape[1]), kind, tail=tail[0])


def _pictures(call: Call, inputs: dict[str, Any], config: Any, chunk: int) -> EncodedVideos:
    """Pictures of all rows [pictures, 3, H, W]; output [pictures, N, C]. Those of a row are one video."""
    pixels, ids = inputs["pixel_values"], inputs["input_ids"]

    def part(a: int, b: int) -> list[Any]:
        output = call(pixel_values=pixels[a:b])
        return [type(output), output.pooler_output]

    kind, frames = _joined(part, len(pixels), chunk)
    many, tokens = frames.shape[:2]
    of_rows = (ids == config.image_token_id).sum(1).tolist()
    if any(n % tokens for n in of_rows) or sum(of_rows) != many * tokens:
        raise ValueError(f"{many} pictures of {tokens} tokens do not fit placeholders {of_rows} of the rows")
    for a, b in pairwise(accumulate((n // tokens for n in of_rows), initial=0)):
        if b > a:
            yield EncodedVideo(frames[a:b], _square(tokens), kind)


def _padded_pictures(call: Call, inputs: dict[str, Any], config: Any, chunk: int) -> EncodedVideos:
    """Pictures [B, most, 3, H, W], those that are all zeros none; output [B][pictures * N, C], in transformers 5.18
    [pictures of all rows, N, C]. Those of a row are one video."""
    pixels, mask = inputs["pixel_values"], inputs.get("pixel_attention_mask")
    real = (pixels != 0).flatten(2).any(2)
    counts = real.sum(1).tolist()
    together = call() if sum(counts) <= chunk else None
    for i, count in enumerate(counts):

        def part(a: int, b: int, i: int = i) -> list[Any]:
            output, place = together, i
            if output is None:
                more = {} if mask is None else {"pixel_attention_mask": mask[i][real[i]][None, a:b]}
                output, place = call(pixel_values=pixels[i][real[i]][None, a:b], **more), 0
            pooled = output.pooler_output
            if isinstance(pooled, Tensor):
                return [True, type(output), pooled.split(counts)[place] if together is not None else pooled]
            return [False, type(output), pooled[place].unflatten(0, (b - a, -1))]

        if count:
            pieces, kind, frames = _joined(part, count, count if together is not None else chunk)
            yield EncodedVideo(frames, _square(frames.shape[1]), kind, pieces=pieces)


def _joined(part: Callable[[int, int], list[Any]], total: int, chunk: int) -> list[Any]:
    """What part(a, b) says of frames a to b, its tensors of all frames; each is written where it belongs."""
    if total <= chunk:
        return part(0, total)
    joined: list[Any] = []
    for a in range(0, total, chunk):
        parts = part(a, min(a + chunk, total))
        joined = joined or [one.new_empty(total, *one.shape[1:]) if isinstance(one, Tensor) else one for one in parts]
        for out, one in zip(joined, parts, strict=True):
            if isinstance(one, Tensor):
                out[a : a + len(one)] = one
    return joined


def _square(tokens: int) -> tuple[int, int]:
    side = isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"a frame has {tokens} tokens, which are no square")
    return side, side


_KINDS: dict[str, Callable[[Call, dict[str, Any], Any, int], EncodedVideos]] = {
    "packed": _packed,
    "clips": partial(_clips, behind=0),
    "clips_and_newline": partial(_clips, behind=1),
    "pictures": _pictures,
    "padded_pictures": _padded_pictures,
}
