"""`--checkpoint DIR`: a folder's config.json and weights, read shard by shard into a model that is there."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longreel.models.sizes import LanguageSize

_TRAINED_POSITIONS = 4096
# Bytes of a file that its fingerprint reads at a time, and how often.
_SAMPLE, _SAMPLES = 1 << 12, 256


class CheckpointError(ValueError):
    """The folder cannot be used: one line saying which entry and why."""


def read_config(folder: Path) -> dict[str, Any]:
    """`folder`/config.json; CheckpointError where it cannot be read."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: not a checkpoint folder (no config.json)") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}/config.json: cannot be read ({error})") from None
    return config


def fingerprint(folder: Path) -> str:
    """The folder's name, and eight hex digits of the sizes and of parts of every file of weights in it: folders of one name
    with other weights differ."""
    digest = hashlib.sha256()
    for path in sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.bin"), *folder.rglob("*.pth")]):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)} {size};".encode())
        with path.open("rb") as file:
            for at in range(0, size, max(_SAMPLE, size // _SAMPLES)):
                file.seek(at)
                digest.update(file.read(_SAMPLE))
    return f"{folder.resolve().name} {digest.hexdigest()[:8]}"


def sized_language(language: LanguageSize, config: Mapping[str, Any]) -> LanguageSize:
    """`language` with what a config.json says of it."""
    rope = config.get("rope_scaling") or {}
    factor = float(rope.get("factor", 1.0))
    heads = config.get("num_attention_heads", language.heads)
    return replace(
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


def fill(
    model: nn.Module,
    folder: Path,
    entries: Iterable[tuple[str, Tensor]],
    wanted: Mapping[str, tuple[str, ...]],
    *,
    left_out: re.Pattern[str],
    assemble: Callable[[list[Tensor], torch.Size], Tensor] = lambda parts, shape: parts[0],
) -> None:
    """Copy released entries into `model`, converted to its dtype, holding no more than the parts of unfinished ones.

    Args:
        entries: (released name, tensor), as they come. wanted: of every name of `model` the released parts it is made of.
        left_out: released names that no forward uses. assemble: a parameter out of its parts, for a shape.

    Raises:
        CheckpointError: an entry is missing, unknown, or of another shape.
    """
    owner = {theirs: name for name, parts in wanted.items() for theirs in parts}
    ours, held = model.state_dict(), dict[str, Tensor]()
    unknown, done = list[str](), set[str]()
    for theirs, value in entries:
        if theirs not in owner:
            if not left_out.fullmatch(theirs):
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


def entries(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Of all shards of `folder`: *.safetensors, else pytorch_model*.bin (unpickled as tensors only)."""
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
        yield from unpickled(path).items()


def unpickled(path: Path) -> dict[str, Tensor]:
    """A pickled state dict, tensors only."""
    try:
        loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, ImportError) as error:
        raise CheckpointError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    except Exception as error:  # pickle.UnpicklingError, and what a broken file makes of it
        raise CheckpointError(f"{path}: not a file of tensors ({type(error).__name__})") from None
    return loaded
