"""Released weights and sizes of VoCo-LLaMA: folders as LLaVA-1.5's, with the VoCo token as the last id."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from longreel.models.checkpoint import (
    CheckpointError,
    entries,
    fill,
    projector_of,
    read_config,
    shapes,
    sized_language,
)
from longreel.models.released_config import check_allowed, count
from longreel.models.sizes import TowerSize
from longreel.models.voco_llama.model import TOWER, VoCoLlama, left_out, released_name
from longreel.models.voco_llama.presets import VoCoPreset

__all__ = ["CheckpointError", "load", "sized"]

_VICUNA = 32000
# Whose rows are read where config.json does not say.
_LAST_BUT_ONE = -2
# Entries of config.json that are read here.
_READ = (
    "mm_hidden_size", "mm_vision_tower", "mm_vision_select_feature", "mm_vision_select_layer", "mm_projector_type",
)  # fmt: skip
_TOWER_SIZES = {
    "image_size": "image", "patch_size": "patch", "hidden_size": "width", "num_hidden_layers": "layers",
    "num_attention_heads": "heads", "intermediate_size": "mlp",
}  # fmt: skip


def sized(preset: VoCoPreset, folder: Path) -> VoCoPreset:
    """`preset` with all that `folder`/config.json says: the language model, the tower and the projector.

    Raises:
        CheckpointError: no such folder, no config.json in it, one that cannot be read, an entry that is not understood, or a
            vocabulary without VoCo token.
    """
    config, where = read_config(folder), f"{folder}/config.json"
    language = sized_language(preset.language, config, where, _READ)
    if language.vocabulary == _VICUNA:
        raise CheckpointError(
            f"{folder}: its vocabulary is Vicuna's {_VICUNA} ids without a VoCo token: a LLaVA that was not trained for it"
        )
    window = None if language.config is None else getattr(language.config.build(), "sliding_window", None)
    if window is not None and window < language.positions and config.get("use_sliding_window", True):
        raise CheckpointError(f"{where}: sliding_window {window} is not computed with VoCo tokens")
    check_allowed(config, where, "mm_vision_select_feature", (None, "patch"))
    tower = _own_tower(preset.tower, folder, config)
    depth, chosen = tower.layers, config.get("mm_vision_select_layer", _LAST_BUT_ONE)
    layers = chosen if not isinstance(chosen, int) or chosen >= 0 else depth + 1 + chosen
    if not isinstance(layers, int) or not 1 <= layers <= depth:
        raise CheckpointError(f"{where}: mm_vision_select_layer {chosen!r} is none of the tower's {depth} layers")
    tower = replace(tower, width=count(config, where, "mm_hidden_size", tower.width), layers=layers)
    projector = projector_of(config, shapes(folder), preset.projector, where)
    return replace(preset, tower=tower, language=language, projector=projector)


def load(model: VoCoLlama, folder: Path) -> None:
    """Copy the released entries of `folder` into `model`, one shard in memory at a time; a tower missing there comes from a
    folder of CLIP's own in it, of the name that config.json gives (`mm_vision_tower`).

    Raises:
        CheckpointError: an entry is missing, unknown, or of another shape.
    """
    wanted = {name: (released_name(name),) for name in model.state_dict()}
    config, layers = read_config(folder), model.preset.tower.layers
    own, chosen = _tower_config(folder, config), config.get("mm_vision_select_layer", _LAST_BUT_ONE)
    depth = own.get("num_hidden_layers", None if chosen >= 0 else layers - 1 - chosen)
    fill(model, folder, _entries(folder, config), wanted, left_out=left_out(layers, depth))


def _entries(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    yield from entries(folder)
    own = _tower_folder(folder, config)
    if own is not None:
        there = shapes(folder)
        for theirs, value in entries(own):
            name = TOWER + theirs.removeprefix("vision_model.")
            if theirs.startswith("vision_model.") and name not in there:
                yield name, value


def _tower_folder(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """Of CLIP's own, where it lies in `folder`."""
    name = Path(str(config.get("mm_vision_tower") or "")).name
    return folder / name if name and (folder / name).is_dir() else None


def _tower_config(folder: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    own = _tower_folder(folder, config)
    if own is None or not (own / "config.json").exists():
        return {}
    found = read_config(own)
    inner: Mapping[str, Any] = found.get("vision_config", found)
    return inner


def _own_tower(tower: TowerSize, folder: Path, config: Mapping[str, Any]) -> TowerSize:
    """`tower`, all layers counted, as CLIP's own config.json says it is."""
    given: dict[str, Any] = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5} | {**_tower_config(folder, config)}
    for name, allowed in (("hidden_act", ("quick_gelu",)), ("layer_norm_eps", (1e-5,))):
        check_allowed(given, f"{_tower_folder(folder, config)}/config.json", name, allowed)
    sizes = {ours: given[theirs] for theirs, ours in _TOWER_SIZES.items() if theirs in given}
    return replace(tower, **{"layers": tower.layers + 1, **sizes})
