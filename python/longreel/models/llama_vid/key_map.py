"""Names of the released LLaMA-VID checkpoints and ours, both ways.

The adapter and the language model carry the released names but for prefixes; the vision tower is EVA there
(https://github.com/dvlab-research/LLaMA-VID, eva_vit.py) and transformers' BLIP-2 tower here.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from longreel.models.checkpoint import refuse_untaken
from longreel.models.eva import released_tower_name, under_released_names
from longreel.models.llama_vid.adapter import Adapter

TOWER = "model.vision_tower.vision_tower."
_ADAPTER = re.compile(r"model\.(vlm_att_|mm_projector\.)")
# A buffer that every model makes anew.
_LEFT_OUT = re.compile(r".*\.position_ids")


def released_name(name: str) -> str:
    """The released checkpoint's name of a parameter of `Adapter`."""
    room, _, rest = name.partition(".")
    if room == "vlm_att_encoder":
        return f"model.vlm_att_encoder.bert.{rest}"
    return "model." + (rest if room == "attention" else name)


def from_released(released: Mapping[str, Tensor], adapter: Adapter) -> dict[str, Tensor]:
    """The state dict of `adapter` out of a released one, whose entries of the tower and the language model are left alone.

    Raises:
        KeyError: the released state dict lacks a parameter, named as the release names it.
        CheckpointError: it has an entry of an adapter (vlm_att_*, mm_projector.*) that `adapter` has no place for.
    """
    taken = {released_name(name): name for name in adapter.state_dict()}
    refuse_untaken((name for name in released if _ADAPTER.match(name) and name not in taken), _LEFT_OUT)
    return {name: released[theirs] for theirs, name in taken.items()}


def released_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Of every entry of a `LlamaVid`'s state dict, the entry or entries of a released checkpoint that it is made of."""
    names: dict[str, tuple[str, ...]] = {}
    for name in model.state_dict():
        room, _, rest = name.partition(".")
        if room == "adapter":
            names[name] = (released_name(rest),)
        elif room == "tower":
            names[name] = tuple(TOWER + theirs for theirs in released_tower_name(rest))
        else:
            names[name] = (rest,)
    return names


def to_released(model: nn.Module) -> dict[str, Tensor]:
    """A `LlamaVid`'s (or an `Adapter`'s) state dict under released names.

    Raises:
        ValueError: the tower has a bias on its attention's keys, for which a released checkpoint has no place.
    """
    state = model.state_dict()
    if isinstance(model, Adapter):
        return {released_name(name): value for name, value in state.items()}
    return under_released_names(state, released_names(model))
