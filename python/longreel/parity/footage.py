"""Frames of a real video as the pixels of a model of transformers, some of them cards that must not be lost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longreel.compression.families import family_of
from longreel.data import frames
from longreel.data.cards import COLOURS, DIGITS, DigitCard
from longreel.files.foreign import ForeignError, read_json
from longreel.files.forms import NUMBER, POSITIVE, check_form
from longreel.models.prompts import read_vocabulary
from longreel.parity.inputs import prompted, taken

# Tokens across a frame where the model does not say.
_ACROSS = 16


@dataclass(frozen=True)
class Footage:
    """pixels: uint8 [F, side, side, 3], F a multiple of `step`, the frames of one step of the tower; planted: steps that show a
    card."""

    pixels: Tensor
    step: int
    planted: list[int]


def footage(model: Any, video: Path, spec: str, size: int | None, planted: int) -> Footage:
    """The frames of `spec`, squares of `size` pixels (None: what suits the model), cards in `planted` steps far apart.

    Raises:
        ValueError: a model that takes no such video, or sizes and counts that do not fit.
        MediaError: a video that cannot be read.
    """
    side, step = _side(model, size), _step(model)
    with frames(video, spec, size=side) as stream:
        found = [chunk.pixels for chunk in stream]
    pixels = torch.cat(found)
    pixels = torch.cat([pixels, pixels[-1:].expand(-len(pixels) % step, -1, -1, -1)])
    steps = len(pixels) // step
    if not 0 <= planted < max(1, steps):
        raise ValueError(f"{planted} cards do not fit {steps} steps of frames; allowed: fewer cards than steps")
    where = [(2 * i + 1) * steps // (2 * planted) for i in range(planted)]
    colours = list(COLOURS)
    for i, at in enumerate(where):
        card = DigitCard(colours[i % len(colours)], i % DIGITS, 0).picture(side, side)
        pixels[at * step : (at + 1) * step] = torch.from_numpy(card.copy())
    return Footage(pixels, step, where)


def footage_inputs(model: Any, folder: Path, shot: Footage, question: str, words: int = 12) -> dict[str, Tensor]:
    """Pixels, ids and what goes with them. The question by the folder's tokenizer; where it has none, words drawn."""
    mean, std = _normalisation(folder)
    # [F, 3, side, side]
    x = ((shot.pixels.float() / 255 - mean) / std).movedim(-1, 1).to(model.dtype)
    kind = family_of(model).kind
    if kind == "packed":
        given = _patches(model, x, shot.step)
    else:
        name = "pixel_values_videos" if kind.startswith("clips") else "pixel_values"
        given = {name: x if kind == "pictures" else x[None]}
    ids = _ids(model, folder, question, words)
    device = model.device
    made = prompted(model, {key: value.to(device) for key, value in given.items()}, ids)
    made = {key: value.to(device) for key, value in made.items()}
    return made | {"attention_mask": torch.ones_like(made["input_ids"])}


def looks_untrained(model: torch.nn.Module) -> bool:
    """Whether every norm's weight is 1, as nothing but initialisation leaves it."""
    weights = [weight for name, weight in model.named_parameters() if "norm" in name and weight.dim() == 1]
    weights = [weight for weight in weights if weight.numel() and not torch.all(weight == 0)]
    return bool(weights) and all(bool((weight == 1).all()) for weight in weights if weight.mean() > 0.5)


def _step(model: Any) -> int:
    return (
        int(getattr(model.config.vision_config, "temporal_patch_size", 1)) if family_of(model).kind == "packed" else 1
    )


def _cell(model: Any) -> tuple[int, int]:
    vision = model.config.vision_config
    return int(vision.patch_size), int(getattr(vision, "spatial_merge_size", 2))


def _side(model: Any, size: int | None) -> int:
    if family_of(model).kind == "packed":
        patch, merge = _cell(model)
        side = size or _ACROSS * patch * merge
        if side % (patch * merge):
            raise ValueError(f"size is {size}; allowed: multiples of {patch * merge} (a token's pixels)")
        return side
    own = model.config.vision_config.image_size
    height, width = own if isinstance(own, list | tuple) else (own, own)
    if height != width or (size is not None and size != height):
        raise ValueError(
            f"size is {size}; this model's tower takes {height} x {width} pixels alone, squares are made here"
        )
    return int(height)


def _patches(model: Any, x: Tensor, step: int) -> dict[str, Tensor]:
    """[T * h * w, 3 * step * patch * patch], window by window of merge x merge, and the grid."""
    patch, merge = _cell(model)
    across = x.shape[-1] // patch
    cells = x.view(-1, step, 3, across // merge, merge, patch, across // merge, merge, patch)
    cells = cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    steps, takes = len(cells), taken(model)
    given = {
        "pixel_values_videos": cells.flatten(5).flatten(0, 4),
        "video_grid_thw": torch.tensor([[steps, across, across]]),
    }
    if "video_merge_sizes" in takes:
        given["video_merge_sizes"] = torch.tensor([merge])
    if "video_compression_mask" in takes:
        given["video_compression_mask"] = torch.ones(steps * (across // merge) ** 2, dtype=torch.bool)
    return given


def _normalisation(folder: Path) -> tuple[Tensor, Tensor]:
    """[3] each, by the folder's files for a processor, else 1/2."""
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / name).exists():
            read = read_json(folder / name)
            check_form(read, {"image_mean?": object, "image_std?": object}, str(folder / name))
            found = [read.get(key) for key in ("image_mean", "image_std")]
            if all(isinstance(one, list) and len(one) == 3 for one in found):
                check_form(found, [[NUMBER]], f"image_mean and image_std of {folder / name}")
                check_form(found[1], [POSITIVE], f"image_std of {folder / name}")
                return torch.tensor(found[0]), torch.tensor(found[1])
    return torch.full((3,), 0.5), torch.full((3,), 0.5)


def _ids(model: Any, folder: Path, question: str, words: int) -> Tensor:
    """[1, words]"""
    vocabulary = model.config.get_text_config().vocab_size
    if any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        from transformers import AutoTokenizer

        tokenizer = read_vocabulary(
            folder, lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        )
        ids: Tensor = tokenizer(question, return_tensors="pt").input_ids
        if ids.shape[1] > 2:
            if int(ids.max()) >= vocabulary:
                raise ForeignError(f"{folder}: its tokenizer has ids beyond the {vocabulary:,} of its model")
            return ids
    generator = torch.Generator().manual_seed(0)
    return torch.randint(min(10, vocabulary // 4), max(vocabulary // 2, 2), (1, words), generator=generator)
