"""`--checkpoint DIR`: a folder's config.json and weights, read shard by shard into a model that is there."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longreel.models.released_config import CheckpointError, sized_language

__all__ = [
    "CheckpointError", "entries", "fill", "fingerprint", "projector_of", "read_config", "refuse_untaken", "shapes",
    "sized_language", "unpickled",
]  # fmt: skip

# Bytes of a file that its fingerprint reads at a time.
_BLOCK = 1 << 22


def read_config(folder: Path) -> dict[str, Any]:
    """`folder`/config.json; CheckpointError where it cannot be read."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: not a checkpoint folder (no config.json)") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}/config.json: cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder}/config.json: must be an object, is {type(config).__name__}")
    return config


def fingerprint(folder: Path) -> str:
    """The folder's name, and eight hex digits of every file of weights in it: folders of one name with other weights differ, in
    one number too. Reads all of them, as loading does."""
    digest = hashlib.sha256()
    for path in sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.bin"), *folder.rglob("*.pth")]):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size};".encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return f"{folder.resolve().name} {digest.hexdigest()[:8]}"


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

    Two names of `model` for one tensor (tie_word_embeddings) need one entry; where both are there, they must be equal.

    Raises:
        CheckpointError: an entry is missing, unknown, of another shape, or there twice with other values.
    """
    owner = {theirs: name for name, parts in wanted.items() for theirs in parts}
    ours, held = model.state_dict(), dict[str, Tensor]()
    unknown, done = list[str](), set[str]()
    alike: dict[tuple[int, int], set[str]] = {}
    for name, tensor in ours.items():
        alike.setdefault(_place(tensor), set()).add(name)
    for theirs, value in entries:
        if theirs not in owner:
            if not left_out.fullmatch(theirs):
                unknown.append(theirs)
            continue
        name = owner[theirs]
        held[theirs] = value
        if not all(part in held for part in wanted[name]):
            continue
        place = ours[name]
        made = assemble([held.pop(part) for part in wanted[name]], place.shape)
        if made.shape != place.shape:
            raise CheckpointError(
                f"{folder}: {theirs} has shape {list(made.shape)}, this preset's is {list(place.shape)}"
            )
        twins = alike[_place(place)] - {name}
        if twins & done and not torch.equal(made.to(place), place):
            raise CheckpointError(f"{folder}: {theirs} differs from {min(twins)}, to which config.json ties it")
        if name in done and not torch.equal(made.to(place), place):
            raise CheckpointError(f"{folder}: {theirs} is there twice and differs: keep the shards of one save")
        place.copy_(made)
        done |= {name, *twins}
    missing = [part for name in wanted if name not in done for part in wanted[name]]
    for kind, names in (("lacks", missing), ("has unknown", unknown)):
        if names:
            rest = f" and {len(names) - 1} more entries" if len(names) > 1 else ""
            raise CheckpointError(f"{folder}: the checkpoint {kind} {names[0]}{rest}")


def _place(tensor: Tensor) -> tuple[int, int]:
    """Equal for two names of one tensor; those of the meta device have no address to tell by."""
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset())


def entries(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Of all shards of `folder`: *.safetensors, else pytorch_model*.bin (unpickled as tensors only)."""
    for path in _shards(folder):
        yield from ((name, read()) for name, read, _ in _listed(path))


def _listed(path: Path) -> Iterator[tuple[str, Callable[[], Tensor], tuple[int, ...]]]:
    """Name, tensor and shape of every entry of a file of weights; of *.safetensors a tensor is read when it is asked for."""
    if path.suffix != ".safetensors":
        for name, value in unpickled(path).items():
            yield name, lambda value=value: value, tuple(value.shape)  # type: ignore[misc]
        return
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118, not a dict
                part = file.get_slice(name)
                yield name, lambda name=name: file.get_tensor(name), tuple(part.get_shape())  # type: ignore[misc]
    except SafetensorError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None


def _shards(folder: Path) -> list[Path]:
    """CheckpointError where there are none."""
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not found:
        raise CheckpointError(f"{folder}: no weights (*.safetensors or pytorch_model*.bin)")
    return found


def refuse_untaken(names: Iterable[str], left_out: re.Pattern[str]) -> None:
    """CheckpointError for released entries that were not taken, but for those `left_out`."""
    untaken = sorted(name for name in names if not left_out.fullmatch(name))
    if untaken:
        rest = f" and {len(untaken) - 1} more entries" if len(untaken) > 1 else ""
        raise CheckpointError(f"the model has no place for {untaken[0]}{rest}")


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of every entry of the weights in `folder`; nothing where there are none, or they cannot be read."""
    try:
        return {name: shape for path in _shards(folder) for name, _, shape in _listed(path)}
    except CheckpointError:
        return {}


def projector_of(config: Mapping[str, Any], there: Mapping[str, Any], default: str, where: str) -> str:
    """The kind of mm_projector that a config.json names; where it names none, the one whose entries are `there`."""
    kind = config.get("mm_projector_type")
    if kind is None:
        layers = {name.split(".")[2] for name in there if name.startswith("model.mm_projector.")}
        return default if not layers else "linear" if "weight" in layers else f"mlp{len(layers)}x_gelu"
    if not re.fullmatch(r"linear|identity|mlp[1-9]\d*x_gelu", str(kind)):
        raise CheckpointError(
            f"{where}: mm_projector_type {kind!r} is not understood; there is linear, identity and mlpNx_gelu"
        )
    return str(kind)


def unpickled(path: Path) -> dict[str, Tensor]:
    """A pickled state dict, tensors only."""
    try:
        loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, ImportError) as error:
        raise CheckpointError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    except Exception as error:  # pickle.UnpicklingError, and what a broken file makes of it
        raise CheckpointError(f"{path}: not a file of tensors ({type(error).__name__})") from None
    return loaded
