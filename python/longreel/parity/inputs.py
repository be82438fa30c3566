"""Inputs for the forward of a model of transformers, drawn: a few frames where it takes a video or pictures, and words."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longreel.compression.families import FAMILIES
from longreel.files.foreign import ForeignError
from longreel.files.tensors import TensorFile

_LEAST = 2


def read_inputs(path: Path) -> dict[str, Tensor]:
    """Keywords of forward, saved as tensors in a safetensors file.

    Raises:
        ForeignError: it is none.
    """
    with TensorFile(path) as file:
        return {name: file.read(name) for name in file.header.entries}


def drawn_inputs(model: nn.Module, *, frames: int = 4, words: int = 12) -> dict[str, Tensor]:
    """The same for the same model: a video of `frames` frames (or pictures) of noise at the size its config.json says, its
    placeholders, and `words` ids; of a model that takes no pixels the ids alone.

    Raises:
        ForeignError: a model whose pixels come in a way that is not known here.
    """
    config: Any = model.config
    takes = taken(model)
    draw = torch.Generator().manual_seed(0)
    vocabulary = config.get_text_config().vocab_size
    # Away from the special tokens that stand at both ends.
    text = torch.randint(min(10, vocabulary // 4), max(vocabulary // 2, 2), (1, words), generator=draw)
    if "input_ids" not in takes:
        raise ForeignError(f"{type(model).__name__}: its forward takes no input_ids, so that none are drawn")
    given = _pixels(model, takes, frames, draw)
    if not given:
        return {"input_ids": text} | ({"decoder_input_ids": text} if "decoder_input_ids" in takes else {})
    given = prompted(model, given, text)
    if "qformer_input_ids" in takes:
        given["qformer_input_ids"] = torch.randint(5, config.qformer_config.vocab_size, (1, words), generator=draw)
    if "decoder_input_ids" in takes and config.get_text_config().is_encoder_decoder:
        given["decoder_input_ids"] = text
    return given


def prompted(model: Any, given: dict[str, Tensor], text: Tensor) -> dict[str, Tensor]:
    """Pixels that a model takes, with ids: of text [1, words] the first two, placeholders, the others."""
    config = model.config
    kind = "video" if _moving(model, given) else "image"
    token = next(
        (getattr(config, name) for name in (f"{kind}_token_id", f"{kind}_token_index") if hasattr(config, name)), None
    )
    if token is None:
        raise ForeignError(f"{type(model).__name__}: config.json names no {kind} token; give its inputs")
    # Qwen3-VL has its frames apart.
    blocks = int(given["video_grid_thw"][0, 0]) if config.model_type.startswith("qwen3_vl") else 1
    holders = torch.full((1, _placeholders(model, given, kind) // blocks), token)
    video = [part for _ in range(blocks) for part in _around(config, holders)]
    ids = torch.cat([text[:, :_LEAST], *video, text[:, _LEAST:]], 1)
    given = {"input_ids": ids} | given
    if "mm_token_type_ids" in taken(model):
        given["mm_token_type_ids"] = (2 if kind == "video" else 1) * (ids == token).long()
    return given


def taken(model: Any) -> set[str]:
    """Names that its forward takes, and its features of a video, to which forward may hand on what it does not name."""
    inner = getattr(getattr(model, "model", model), "get_video_features", None)
    return {
        name for method in (model.forward, inner) if method is not None for name in inspect.signature(method).parameters
    }


def _moving(model: nn.Module, given: dict[str, Tensor]) -> bool:
    return "pixel_values_videos" in given or ("Video" in type(model).__name__ and given["pixel_values"].dim() == 5)


def _pixels(model: Any, takes: Any, frames: int, draw: torch.Generator) -> dict[str, Tensor]:
    vision = getattr(model.config, "vision_config", None)
    if vision is None or not {"pixel_values", "pixel_values_videos"} & takes:
        return {}
    name = "pixel_values_videos" if "pixel_values_videos" in takes else "pixel_values"
    if "video_grid_thw" in takes:
        merge = int(getattr(vision, "spatial_merge_size", 2))
        # A grid of 2 x 2 tokens, whose patches come packed.
        side, depth = 2 * merge, int(getattr(vision, "temporal_patch_size", 1))
        channels: Any = getattr(vision, "in_channels", None) or getattr(vision, "in_chans", 3)
        width = channels * depth * vision.patch_size**2
        return {
            name: torch.randn(side * side, width, generator=draw),
            "video_grid_thw": torch.tensor([[1, side, side]]),
        } | ({"video_merge_sizes": torch.tensor([merge])} if "video_merge_sizes" in takes else {}) | (
            {"video_compression_mask": torch.ones(4, dtype=torch.bool)} if "video_compression_mask" in takes else {}
        )  # fmt: skip
    size = getattr(vision, "image_size", None)
    if size is None:
        raise ForeignError(f"{type(model).__name__}: vision_config names no image_size; give its inputs")
    height, width = size if isinstance(size, list | tuple) else (size, size)
    known = FAMILIES.get(model.config.model_type)
    if hasattr(model.config, "num_query_tokens"):
        # A Q-Former: one picture, or the frames of one video.
        shape = (1, frames) if "Video" in type(model).__name__ else (1,)
    elif name == "pixel_values_videos" or "pixel_attention_mask" in takes:
        shape = (1, frames)
    elif "image_sizes" not in takes or (known is not None and known.kind == "pictures"):
        shape = (frames,)
    else:
        raise ForeignError(f"{type(model).__name__}: pictures with image_sizes are not drawn; give its inputs")
    return {name: torch.randn(*shape, 3, height, width, generator=draw)}


@torch.no_grad()
def _placeholders(model: Any, given: dict[str, Tensor], kind: str) -> int:
    """Tokens that the pixels become: as many as the model's own features have rows."""
    if hasattr(model.config, "num_query_tokens"):
        return model.config.num_query_tokens * (given["pixel_values"].shape[1] if kind == "video" else 1)
    owner = next((one for one in (getattr(model, "model", None), model) if hasattr(one, f"get_{kind}_features")), None)
    if owner is None:
        raise ForeignError(
            f"{type(model).__name__}: has no get_{kind}_features that counts its tokens; give its inputs"
        )
    method = getattr(owner, f"get_{kind}_features")
    takes = inspect.signature(method).parameters
    dtype = next(model.vision_tower.parameters() if hasattr(model, "vision_tower") else model.parameters()).dtype
    out = method(**{
        key: value.to(dtype) if value.is_floating_point() else value for key, value in given.items() if key in takes
    })  # fmt: skip
    found = getattr(out, "pooler_output", out)
    parts = found if isinstance(found, list | tuple) else [found]
    return sum(part.numel() // part.shape[-1] for part in parts)


def _around(config: Any, holders: Tensor) -> list[Tensor]:
    """Placeholders, between a video's own marks where the model has them."""
    marks = [getattr(config, f"vision_{end}_token_id", None) for end in ("start", "end")]
    start, end = (torch.empty(1, 0, dtype=torch.long) if mark is None else torch.tensor([[mark]]) for mark in marks)
    return [start, holders, end]
