"""Released weights and sizes of VoCo-LLaMA: folders as LLaVA-1.5's, with the VoCo token as the last id."""

from dataclasses import replace
from pathlib import Path

from longreel.models import clip
from longreel.models.checkpoint import CheckpointError, Released, projector_of, read_config, shapes, sized_language
from longreel.models.voco_llama.model import VoCoLlama, released_name
from longreel.models.voco_llama.presets import VoCoPreset

__all__ = ["CheckpointError", "load", "sized"]

_VICUNA = 32000
# Vocabularies are padded to multiples of it.
_PADDED = 64
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
# Whose rows are read where config.json does not say.
_LAST_BUT_ONE = -2


def sized(preset: VoCoPreset, folder: Path) -> VoCoPreset:
    """`preset` with all that `folder`/config.json says: the language model, the tower and the projector.

    Raises:
        CheckpointError: no such folder, no config.json in it, one that cannot be read, an entry that is not understood, or a
            vocabulary without VoCo token, or one that may be padded behind it, without a tokenizer.
    """
    config, where = read_config(folder), f"{folder}/config.json"
    language = sized_language(preset.language, config, where, (*clip.READ, "mm_projector_type"))
    if language.vocabulary == _VICUNA:
        raise CheckpointError(
            f"{folder}: its vocabulary is Vicuna's {_VICUNA} ids without a VoCo token: a LLaVA that was not trained for it"
        )
    if language.vocabulary % _PADDED == 0 and not any((folder / name).exists() for name in _TOKENIZER):
        raise CheckpointError(
            f"{folder}: a vocabulary of {language.vocabulary} ids may be padded behind the VoCo token, and no tokenizer says"
            f" which id that is: put {_TOKENIZER[0]} beside the weights"
        )
    window = None if language.config is None else getattr(language.config.build(), "sliding_window", None)
    if window is not None and window < language.positions and config.get("use_sliding_window", True):
        raise CheckpointError(f"{where}: sliding_window {window} is not computed with VoCo tokens")
    tower = clip.sized_tower(preset.tower, folder, config, _LAST_BUT_ONE)
    projector = projector_of(config, shapes(folder), preset.projector, where)
    return replace(preset, tower=tower, language=language, projector=projector)


def load(model: VoCoLlama, folder: Path) -> None:
    """Copy the released entries of `folder` into `model`, one shard in memory at a time; a tower missing there comes from a
    folder of CLIP's own in it, of the name that config.json gives (`mm_vision_tower`).

    Raises:
        CheckpointError: an entry is missing, unknown, or of another shape.
    """
    released(model, folder).fill(model, folder)


def released(model: VoCoLlama, folder: Path) -> Released:
    """What `load` reads."""
    wanted = {name: (released_name(name),) for name in model.state_dict()}
    config = read_config(folder)
    unused = clip.left_out_of(folder, config, model.preset.tower.layers, _LAST_BUT_ONE)
    return Released(clip.entries_with_tower(folder, config), wanted, unused, folder)
