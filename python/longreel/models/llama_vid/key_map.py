"""Names of the released LLaMA-VID checkpoints and ours, both ways.

The adapter and the language model carry the released names but for prefixes and the Q-Former's inner names; the vision
tower is EVA there (https://github.com/dvlab-research/LLaMA-VID, eva_vit.py) and transformers' BLIP-2 tower here.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from longreel.models.checkpoint import refuse_untaken
from longreel.models.llama_vid.adapter import Adapter

TOWER = "model.vision_tower.vision_tower."
# Ours -> EVA's, tried in order; qkv.bias is not among them: EVA stores it without its zero middle.
_TOWER_NAMES = (
    (r"embeddings\.class_embedding", "cls_token"),
    (r"embeddings\.position_embedding", "pos_embed"),
    (r"embeddings\.patch_embedding\.(\w+)", r"patch_embed.proj.\1"),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"encoder\.layers\.(\d+)\.self_attn\.qkv\.weight", r"blocks.\1.attn.qkv.weight"),
    (r"encoder\.layers\.(\d+)\.self_attn\.projection\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.(fc[12]\.\w+)", r"blocks.\1.mlp.\2"),
)
_ADAPTER = re.compile(r"model\.(vlm_att_|mm_projector\.)")
# A buffer that every model makes anew.
_LEFT_OUT = re.compile(r".*\.position_ids")
_QKV_BIAS = re.compile(r"encoder\.layers\.(\d+)\.self_attn\.qkv\.bias")


def released_qformer_name(name: str) -> str:
    """The released name, below `bert.`, of a parameter of the Q-Former (and of a BERT, which has it already)."""
    return name.replace("embeddings.layernorm.", "embeddings.LayerNorm.").replace(
        "attention.attention.", "attention.self."
    )


def released_name(name: str) -> str:
    """The released checkpoint's name of a parameter of `Adapter`."""
    room, _, rest = name.partition(".")
    if room == "vlm_att_encoder":
        return f"model.vlm_att_encoder.bert.{released_qformer_name(rest)}"
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


def released_tower_name(name: str) -> tuple[str, ...]:
    """EVA's name of a parameter of the tower; two for the attention's bias, of queries and of values.

    Raises:
        KeyError: no such parameter.
    """
    bias = _QKV_BIAS.fullmatch(name)
    if bias:
        return tuple(f"blocks.{bias[1]}.attn.{part}_bias" for part in "qv")
    for pattern, theirs in _TOWER_NAMES:
        match = re.fullmatch(pattern, name)
        if match:
            return (match.expand(theirs),)
    raise KeyError(name)


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
    released: dict[str, Tensor] = {}
    for name, theirs in released_names(model).items():
        parts: tuple[Tensor, ...] = (state[name],)
        if len(theirs) == 2:
            query, key, value = state[name].chunk(3)
            if key.any():
                raise ValueError(f"{name}: the released tower has no bias on its keys, this one has")
            parts = (query, value)
        released.update(zip(theirs, parts, strict=True))
    return released


def assemble(parts: list[Tensor], shape: torch.Size) -> Tensor:
    """One entry of ours from the released one or two; a position table of another image size is resized (bicubic)."""
    if len(parts) == 2:
        return torch.cat([parts[0], torch.zeros_like(parts[0]), parts[1]])
    (value,) = parts
    if value.shape != shape and value.dim() == 3 and value.shape[::2] == shape[::2]:
        return _resized(value, shape[1])
    return value


def _resized(table: Tensor, tokens: int) -> Tensor:
    """[1, 1 + N, C] -> [1, tokens, C], the CLS row kept."""
    old, new = (round((count - 1) ** 0.5) for count in (table.shape[1], tokens))
    if old * old + 1 != table.shape[1] or new * new + 1 != tokens:
        return table
    grid = table[:, 1:].float().unflatten(1, (old, old)).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], resized.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)], 1)
