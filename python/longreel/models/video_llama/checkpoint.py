"""Released weights of Video-LLaMA, which come as several files in one folder:

- `eva_vit_g.pth`, the vision tower; `blip2*.pth`, its last norm and the frame Q-Former; `imagebind_huge.pth`, the audio tower;
- any other `*.pth`, Video-LLaMA's own of the video branch and of the audio branch;
- the language model with its config.json: the folder itself, or the one folder in it that has one.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from longreel.models.checkpoint import (
    CheckpointError,
    Released,
    entries,
    read_config,
    shapes,
    sized_language,
    unpickled,
)
from longreel.models.eva import TOWER_FILE, UNREAD, assemble, released_tower_name, under_released_names
from longreel.models.video_llama.model import VideoLlama
from longreel.models.video_llama.presets import VideoLlamaPreset

__all__ = ["CheckpointError", "language_folder", "load", "sized", "to_released"]

AUDIO_FILE = "imagebind_huge.pth"
# Where each part stands in the released model.
_TOWER, _AUDIO, _LANGUAGE = "visual_encoder.", "audio_encoder.", "llama_model."
# Made anew by every model; the 40th block; BLIP-2's text half and heads; ImageBind's other modalities.
_LEFT_OUT = re.compile(
    r".*\.position_ids|.*\.rotary_emb\.inv_freq|(t5|opt|llm)_proj\..*|(vision|text)_proj\..*|itm_head\..*|temp"
    r"|Qformer\.cls\..*|Qformer\.bert\.embeddings\.(word|position)_embeddings\..*"
    r"|Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\..*"
    rf"|{re.escape(_TOWER)}({UNREAD})|{re.escape(_AUDIO)}modality_\w+\.(?!audio\.).*"
)


def sized(preset: VideoLlamaPreset, folder: Path) -> VideoLlamaPreset:
    """`preset` with the language model that the folder's config.json describes.

    Raises:
        CheckpointError: no such folder, no config.json or more than one, one that cannot be read, or an entry that is not
            understood.
    """
    own = language_folder(folder)
    return replace(preset, language=sized_language(preset.language, read_config(own), f"{own}/config.json", ()))


def is_whole(folder: Path) -> bool:
    """Whether all parts stand in this folder's own weights, as `longreel convert` writes them."""
    return any(name.startswith(_LANGUAGE) for name in shapes(folder))


def language_folder(folder: Path) -> Path:
    """The language model's: `folder`, or the one folder in it that has a config.json."""
    if (folder / "config.json").exists():
        return folder
    found = sorted(path.parent for path in folder.glob("*/config.json"))
    if len(found) != 1:
        raise CheckpointError(
            f"{folder}: not a checkpoint folder ({len(found) or 'no'} config.json of a language model in its folders)"
        )
    return found[0]


def load(model: VideoLlama, folder: Path) -> None:
    """Copy the released entries of `folder` into `model`, one file in memory at a time.

    Raises:
        CheckpointError: an entry is missing, unknown, or of another shape.
    """
    released(model, folder).fill(model, folder)


def released(model: VideoLlama, folder: Path) -> Released:
    """What `load` reads."""
    wanted = {name: released_names(name) for name in model.state_dict()}
    return Released(_entries(folder), wanted, _LEFT_OUT, language_folder(folder), assemble)


def released_names(name: str) -> tuple[str, ...]:
    """Of an entry of a `VideoLlama`, the entry or entries of the released model that it is made of."""
    room, _, rest = name.partition(".")
    if room == "tower":
        return tuple(_TOWER + theirs for theirs in released_tower_name(rest))
    return ({"audio_encoder": _AUDIO, "language": _LANGUAGE, "adapter": ""}[room] + rest,)


def to_released(model: VideoLlama) -> dict[str, Tensor]:
    """A `VideoLlama`'s state dict under released names.

    Raises:
        ValueError: the tower has a bias on its attention's keys, for which a released checkpoint has no place.
    """
    state = model.state_dict()
    return under_released_names(state, {name: released_names(name) for name in state})


def _entries(folder: Path) -> Iterator[tuple[str, Tensor]]:
    own = language_folder(folder)
    # Of a folder that was converted all entries have their places in the whole.
    prefix = "" if is_whole(own) else _LANGUAGE
    for name, value in entries(own):
        yield prefix + name, value
    for path in sorted(folder.glob("*.pth")):
        prefix = {TOWER_FILE: _TOWER, AUDIO_FILE: _AUDIO}.get(path.name, "")
        # LAVIS saves a model as one entry of several.
        for name, value in unpickled(path, "model").items():
            yield prefix + name, value
