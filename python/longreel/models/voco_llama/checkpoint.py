"""Released weights and sizes of VoCo-LLaMA: folders as LLaVA-1.5's, with the VoCo token as the last id."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from longreel.models.checkpoint import CheckpointError, entries, fill, read_config, sized_language
from longreel.models.voco_llama.model import TOWER, VoCoLlama, released_name
from longreel.models.voco_llama.presets import Preset

__all__ = ["CheckpointError", "load", "sized"]

_VICUNA = 32000


def sized(preset: Preset, folder: Path) -> Preset:
    """`preset` with what `folder`/config.json says: the language model's sizes and the width of the patches.

    Raises:
        CheckpointError: no such folder, no config.json in it, one that cannot be read, or a vocabulary without VoCo token.
    """
    config = read_config(folder)
    language = sized_language(preset.language, config)
    if language.vocabulary == _VICUNA:
        raise CheckpointError(
            f"{folder}: its vocabulary is Vicuna's {_VICUNA} ids without a VoCo token: a LLaVA that was not trained for it"
        )
    tower = replace(preset.tower, width=config.get("mm_hidden_size", preset.tower.width))
    return replace(preset, tower=tower, language=language)


def load(model: VoCoLlama, folder: Path) -> None:
    """Copy the released entries of `folder` into `model`, one shard in memory at a time; a tower missing there comes from a
    folder of CLIP's own in it, of the name that config.json gives (`mm_vision_tower`).

    Raises:
        CheckpointError: an entry is missing, unknown, or of another shape.
    """
    wanted = {name: (released_name(name),) for name in model.state_dict()}
    # Made anew by every model, or of the tower's last layer and norm, which no forward uses.
    last = rf"encoder\.layers\.{model.preset.tower.layers}\..*|post_layernorm\..*"
    left_out = re.compile(rf".*\.rotary_emb\.inv_freq|.*\.position_ids|{re.escape(TOWER)}({last})")
    fill(model, folder, _entries(folder), wanted, left_out=left_out)


def _entries(folder: Path) -> Iterator[tuple[str, Tensor]]:
    yield from entries(folder)
    name = Path(str(read_config(folder).get("mm_vision_tower", ""))).name
    if name and (folder / name).is_dir():
        for theirs, value in entries(folder / name):
            if theirs.startswith("vision_model."):
                yield TOWER + theirs.removeprefix("vision_model."), value
