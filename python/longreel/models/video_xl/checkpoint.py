"""Released weights and sizes of Video-XL: LLaVA's folders with a Qwen2 and its weights of VST rows."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from longreel.models import clip
from longreel.models.checkpoint import CheckpointError, Released, projector_of, read_config, shapes, sized_language
from longreel.models.released_config import check_allowed, count
from longreel.models.video_xl.model import VideoXL, released_name
from longreel.models.video_xl.presets import VideoXLPreset

__all__ = ["CheckpointError", "load", "sized"]

# Whose rows are read where config.json does not say.
_LAST = -1
# Entries that matter by their value: those that are computed here, None where it is absent.
_ALLOWED: dict[str, tuple[object, ...]] = {
    "beacon_attn": (None, "full-coverage"),
    "beacon_attend_prev": (None, True),
    "beacon_pos": (None, "interleave"),
    "beacon_sink_size": (None, 0),
    "beacon_parallel_window": (None, 1),
    "beacon_accum": (None, True),
    "enable_beacon": (None, True),
    "mm_spatial_pool_mode": (None, "average"),
    "mm_spatial_pool_stride": (None, 2),
    "mm_resampler_type": (None, "spatial_pool"),
    "mm_patch_merge_type": (None, "flat", "unires"),
    "image_aspect_ratio": (None, "anyres", "pad", "square"),
}
# Entries that another one says too, or that are of training; beacon_ratio is what `--ratio` says here.
_IDLE = ("beacon_ratio", "beacon_ratio_mix", "beacon_embed_init", "mm_spatial_pool_out_channels", "max_num_pixels")


def sized(preset: VideoXLPreset, folder: Path) -> VideoXLPreset:
    """`preset` with all that `folder`/config.json says: the language model, the window, the tower and the projector.

    Raises:
        CheckpointError: no such folder, no config.json in it, one that cannot be read, or an entry that is not understood.
    """
    config, where = read_config(folder), f"{folder}/config.json"
    read = (*clip.READ, *_ALLOWED, *_IDLE, "mm_projector_type", "beacon_window", "beacon_stride", "beacon_param")
    language = sized_language(preset.language, config, where, read)
    for name, allowed in _ALLOWED.items():
        check_allowed(config, where, name, allowed)
    if language.config is not None and language.config.kind not in ("qwen2", "llama"):
        raise CheckpointError(f"{where}: a {language.config.kind} has no VST weights here; there is qwen2, llama")
    window = count(config, where, "beacon_window", preset.window)
    if count(config, where, "beacon_stride", window) != window:
        raise CheckpointError(f"{where}: beacon_stride {config['beacon_stride']} is not the window, {window}")
    _check_projections(config, where)
    tower = clip.sized_tower(preset.tower, folder, config, _LAST)
    projector = projector_of(config, shapes(folder), preset.projector, where)
    # The published code goes on beyond the positions that were trained, and so does this.
    positions = max(language.positions, preset.language.positions)
    return replace(
        preset,
        tower=tower,
        language=replace(language, positions=positions),
        projector=projector,
        window=window,
    )


def load(model: VideoXL, folder: Path) -> None:
    """Copy the released entries of `folder` into `model`, one shard in memory at a time; a tower missing there comes from a
    folder of CLIP's own in it, of the name that config.json gives (`mm_vision_tower`).

    Raises:
        CheckpointError: an entry is missing, unknown, or of another shape.
    """
    released(model, folder).fill(model, folder)


def released(model: VideoXL, folder: Path) -> Released:
    """What `load` reads."""
    wanted = {name: (released_name(name),) for name in model.state_dict()}
    config = read_config(folder)
    unused = clip.left_out_of(folder, config, model.preset.tower.layers, _LAST)
    return Released(clip.entries_with_tower(folder, config), wanted, unused, folder)


def _check_projections(config: Mapping[str, Any], where: str) -> None:
    given = config.get("beacon_param")
    if given is not None and (not isinstance(given, list) or set(given) != {"q", "k", "v"}):
        raise CheckpointError(f"{where}: beacon_param {given!r} is not computed here; there is ['q', 'k', 'v']")
