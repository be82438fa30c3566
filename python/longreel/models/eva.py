"""EVA-g, the vision tower of several systems: transformers' BLIP-2 tower, and the names of EVA's own checkpoints."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import Blip2VisionConfig, Blip2VisionModel

from longreel.models.sizes import TowerSize

# The tower as LAVIS publishes it, without a prefix; released folders point at it and may lack the tower's entries.
TOWER_FILE = "eva_vit_g.pth"
# A pattern of entries of that file that no forward uses: its 40th block and what stands behind it.
UNREAD = r"blocks\.39\..*|norm\..*|fc_norm\..*|head\..*"
# Ours -> EVA's, tried in order; qkv.bias is not among them: EVA stores it without its zero middle.
_NAMES = (
    (r"embeddings\.class_embedding", "cls_token"),
    (r"embeddings\.position_embedding", "pos_embed"),
    (r"embeddings\.patch_embedding\.(\w+)", r"patch_embed.proj.\1"),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"encoder\.layers\.(\d+)\.self_attn\.qkv\.weight", r"blocks.\1.attn.qkv.weight"),
    (r"encoder\.layers\.(\d+)\.self_attn\.projection\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.(fc[12]\.\w+)", r"blocks.\1.mlp.\2"),
)
_QKV_BIAS = re.compile(r"encoder\.layers\.(\d+)\.self_attn\.qkv\.bias")


def eva_tower(size: TowerSize) -> Blip2VisionModel:
    """The tower without its last norm, which no system here reads; weights as wide as `longreel.models.weights` says."""
    config = Blip2VisionConfig(
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        image_size=size.image,
        patch_size=size.patch,
        hidden_act="gelu",
        initializer_range=size.width**-0.5,
    )
    tower = Blip2VisionModel(config)
    tower.post_layernorm = nn.Identity()  # type: ignore[assignment]
    return tower


def released_tower_name(name: str) -> tuple[str, ...]:
    """EVA's name of a parameter of the tower; two for the attention's bias, of queries and of values.

    Raises:
        KeyError: no such parameter.
    """
    bias = _QKV_BIAS.fullmatch(name)
    if bias:
        return tuple(f"blocks.{bias[1]}.attn.{part}_bias" for part in "qv")
    for pattern, theirs in _NAMES:
        match = re.fullmatch(pattern, name)
        if match:
            return (match.expand(theirs),)
    raise KeyError(name)


def split(name: str, value: Tensor, count: int) -> tuple[Tensor, ...]:
    """The `count` released entries that an entry of ours is made of.

    Raises:
        ValueError: a bias on the attention's keys, for which a released checkpoint has no place.
    """
    if count == 1:
        return (value,)
    query, key, values = value.chunk(3)
    if not key.is_meta and key.any():
        raise ValueError(f"{name}: the released tower has no bias on its keys, this one has")
    return query, values


def under_released_names(state: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Entries of ours as the released ones that `names` says each is made of; ValueError as `split`."""
    parts = ((theirs, split(name, value, len(theirs))) for name, value in state.items() for theirs in [names[name]])
    return {name: part for theirs, values in parts for name, part in zip(theirs, values, strict=True)}


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
