"""`--checkpoint DIR`: released weights and sizes, read shard by shard into a model that is there."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longreel.models.llama_vid.key_map import TOWER, assemble, released_names
from longreel.models.llama_vid.model import LlamaVid
from longreel.models.llama_vid.presets import Preset

# The tower as LAVIS publishes it, without a prefix; released folders point at it and may lack the tower's entries.
TOWER_FILE = "eva_vit_g.pth"
# Made anew by every model, or of parts that no forward uses.
_LEFT_OUT = re.compile(
    r".*\.rotary_emb\.inv_freq|.*\.position_ids|" + re.escape(TOWER) + r"(blocks\.39\..*|norm\..*|fc_norm\..*|head\..*)"
)
_TRAINED_POSITIONS = 4096


class CheckpointError(ValueError):
    """The folder cannot be used: one line saying which entry and why."""


def sized(preset: Preset, folder: Path) -> Preset:
    """`preset` with what `folder`/config.json says: the language model's sizes, width of the patches, compress_type.

    Raises:
        CheckpointError: no such folder, no config.json in it, or one that cannot be read.
    """
    config = read_config(folder)
    language = preset.language
    rope = config.get("rope_scaling") or {}
    factor = float(rope.get("factor", 1.0))
    heads = config.get("num_attention_heads", language.heads)
    language = replace(
        language,
        width=config.get("hidden_size", language.width),
        layers=config.get("num_hidden_layers", language.layers),
        heads=heads,
        kv_heads=config.get("num_key_value_heads", heads),
        mlp=config.get("intermediate_size", language.mlp),
        vocabulary=config.get("vocab_size", language.vocabulary),
        positions=max(
            config.get("max_position_embeddings", 0), config.get("max_token") or 0, round(_TRAINED_POSITIONS * factor)
        ),
        rope_factor=factor,
    )
    tower = replace(preset.tower, width=config.get("mm_hidden_size", preset.tower.width))
    qformer = replace(preset.qformer, queries=config.get("num_query", preset.qformer.queries))
    compress = config.get("compress_type", preset.compress)
    return replace(preset, tower=tower, qformer=qformer, language=language, compress=compress)


def read_config(folder: Path) -> dict[str, Any]:
    """`folder`/config.json; CheckpointError where it cannot be read."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: not a checkpoint folder (no config.json)") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}/config.json: cannot be read ({error})") from None
    return config


def load(model: LlamaVid, folder: Path) -> None:
    """Copy the released entries of `folder` into `model`, converted to its dtype, one shard in memory at a time.

    Shards are *.safetensors, else pytorch_model*.bin (unpickled as tensors only); a tower missing there comes from
    `folder`/eva_vit_g.pth.

    Raises:
        CheckpointError: an entry is missing, unknown, or of another shape.
    """
    wanted = released_names(model)
    owner = {theirs: name for name, parts in wanted.items() for theirs in parts}
    ours, held = model.state_dict(), dict[str, Tensor]()
    unknown, done = list[str](), set[str]()
    for theirs, value in _entries(folder):
        if theirs not in owner:
            if not _LEFT_OUT.fullmatch(theirs):
                unknown.append(theirs)
            continue
        name = owner[theirs]
        held[theirs] = value
        if name in done or not all(part in held for part in wanted[name]):
            continue
        place = ours[name]
        made = assemble([held.pop(part) for part in wanted[name]], place.shape)
        if made.shape != place.shape:
            raise CheckpointError(
                f"{folder}: {theirs} has shape {list(made.shape)}, this preset's is {list(place.shape)}"
            )
        place.copy_(made)
        done.add(name)
    missing = [part for name in wanted if name not in done for part in wanted[name]]
    for kind, names in (("lacks", missing), ("has unknown", unknown)):
        if names:
            rest = f" and {len(names) - 1} more entries" if len(names) > 1 else ""
            raise CheckpointError(f"{folder}: the checkpoint {kind} {names[0]}{rest}")
    model.adapter.attention.fold()


def _entries(folder: Path) -> Iterator[tuple[str, Tensor]]:
    shards = sorted(folder.glob("*.safetensors"))
    pickled = sorted(folder.glob("pytorch_model*.bin"))
    if not shards and not pickled:
        raise CheckpointError(f"{folder}: no weights (*.safetensors or pytorch_model*.bin)")
    if shards:
        from safetensors import SafetensorError, safe_open

        path = shards[0]
        try:
            for path in shards:
                with safe_open(path, "pt") as file:
                    for name in file.keys():  # noqa: SIM118, not a dict
                        yield name, file.get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from None
    for path in [] if shards else pickled:
        yield from _unpickled(path).items()
    tower = folder / TOWER_FILE
    if tower.exists():
        yield from ((TOWER + name, value) for name, value in _unpickled(tower).items())


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, ImportError) as error:
        raise CheckpointError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    except Exception as error:  # pickle.UnpicklingError, and what a broken file makes of it
        raise CheckpointError(f"{path}: not a file of tensors ({type(error).__name__})") from None
    return loaded
