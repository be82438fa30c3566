"""CLIP's vision tower as LLaVA's checkpoints hold it: built, named, sized, and found where it lies in a folder of its own."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from longreel.models.checkpoint import CheckpointError, entries, has_weights, read_config, shapes
from longreel.models.released_config import check_allowed, count
from longreel.models.sizes import TowerSize

TOWER, PROJECTOR = "model.vision_tower.vision_tower.vision_model.", "model.mm_projector."
# Entries of config.json that are read here.
READ = ("mm_hidden_size", "mm_vision_tower", "mm_vision_select_feature", "mm_vision_select_layer")
_SIZES = {
    "image_size": "image", "patch_size": "patch", "hidden_size": "width", "num_hidden_layers": "layers",
    "num_attention_heads": "heads", "intermediate_size": "mlp",
}  # fmt: skip


def clip_tower(size: TowerSize) -> CLIPVisionModel:
    """A frozen tower; its last norm, which no patch goes through, is left out."""
    config = CLIPVisionConfig(
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        image_size=size.image,
        patch_size=size.patch,
    )
    tower = CLIPVisionModel(config)
    tower.post_layernorm = nn.Identity()  # type: ignore[assignment]
    return tower.eval().requires_grad_(False)


def sized_tower(tower: TowerSize, folder: Path, config: Mapping[str, Any], layer: int) -> TowerSize:
    """`tower` as `folder`'s config.json and the tower's own say it is, with the layers whose output is read.

    layer: whose output that is where config.json does not say, counted from the end, as `tower` has it.

    Raises:
        CheckpointError: an entry is not understood, or says what is not computed here.
    """
    where = f"{folder}/config.json"
    check_allowed(config, where, "mm_vision_select_feature", (None, "patch"))
    tower = _own_sizes(replace(tower, layers=tower.layers - 1 - layer), folder, config)
    depth, chosen = tower.layers, config.get("mm_vision_select_layer", layer)
    layers = chosen if not isinstance(chosen, int) or chosen >= 0 else depth + 1 + chosen
    if not isinstance(layers, int) or not 1 <= layers <= depth:
        raise CheckpointError(f"{where}: mm_vision_select_layer {chosen!r} is none of the tower's {depth} layers")
    return replace(tower, width=count(config, where, "mm_hidden_size", tower.width), layers=layers)


def entries_with_tower(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Of all shards of `folder`; a tower missing there comes from a folder of CLIP's own in it, of the name in `config`."""
    yield from entries(folder)
    own = _own_folder(folder, config)
    # One that was converted has the tower's entries itself, and of the folder its config.json alone.
    if own is not None and has_weights(own):
        there = shapes(folder)
        for theirs, value in entries(own):
            name = TOWER + theirs.removeprefix("vision_model.")
            if theirs.startswith("vision_model.") and name not in there:
                yield name, value


def left_out(layers: int, depth: int | None) -> re.Pattern[str]:
    """Released names that no model of `layers` tower layers uses: made anew by every one, or of the tower's last layers, up to
    `depth` of them (None: any), and its last norm."""
    last = r"\d+" if depth is None else "|".join(map(str, range(layers, depth))) or "none"
    tower = rf"encoder\.layers\.({last})\..*|post_layernorm\..*"
    return re.compile(rf".*\.rotary_emb\.inv_freq|.*\.position_ids|{re.escape(TOWER)}({tower})")


def left_out_of(folder: Path, config: Mapping[str, Any], layers: int, layer: int) -> re.Pattern[str]:
    """`left_out` for the weights in `folder`; layer: as `sized_tower` takes it."""
    chosen = config.get("mm_vision_select_layer", layer)
    depth = _own_config(folder, config).get("num_hidden_layers", None if chosen >= 0 else layers - 1 - chosen)
    return left_out(layers, depth)


def _own_folder(folder: Path, config: Mapping[str, Any]) -> Path | None:
    name = Path(str(config.get("mm_vision_tower") or "")).name
    return folder / name if name and (folder / name).is_dir() else None


def _own_config(folder: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    own = _own_folder(folder, config)
    if own is None or not (own / "config.json").exists():
        return {}
    found = read_config(own)
    inner: Mapping[str, Any] = found.get("vision_config", found)
    return inner


def _own_sizes(tower: TowerSize, folder: Path, config: Mapping[str, Any]) -> TowerSize:
    """`tower`, all layers counted, as CLIP's own config.json says it is."""
    given: dict[str, Any] = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5} | {**_own_config(folder, config)}
    for name, allowed in (("hidden_act", ("quick_gelu",)), ("layer_norm_eps", (1e-5,))):
        check_allowed(given, f"{_own_folder(folder, config)}/config.json", name, allowed)
    return replace(tower, **{ours: given[theirs] for theirs, ours in _SIZES.items() if theirs in given})
