"""`--checkpoint DIR`: a folder's config.json and weights, read shard by shard into a model that is there."""

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from longreel.files.foreign import ForeignError, check_regular, first_line, read_json, shown
from longreel.files.tensors import TensorFile
from longreel.measure.memory import no_room
from longreel.models.released_config import CheckpointError, sized_language

__all__ = [
    "CheckpointError", "Released", "check_sizes", "entries", "files_in", "fill", "fingerprint", "has_weights", "is_weights",
    "listed", "projector_of", "read_config", "refuse_untaken", "shapes", "sized_language", "unpickled",
]  # fmt: skip

# Bytes of a file that its fingerprint reads at a time.
_BLOCK = 1 << 22
_WEIGHTS = (".safetensors", ".bin", ".pth")
_MOST_FILES = 10_000


def _only(parts: list[Tensor], shape: torch.Size) -> Tensor:
    return parts[0]


class Released(NamedTuple):
    """What `fill` takes of a folder, beside the model and the folder itself. config: the folder of its config.json."""

    entries: Iterable[tuple[str, Tensor]]
    wanted: Mapping[str, tuple[str, ...]]
    left_out: re.Pattern[str]
    config: Path
    assemble: Callable[[list[Tensor], torch.Size], Tensor] = _only

    def fill(self, model: nn.Module, folder: Path) -> None:
        """As `fill`."""
        fill(model, folder, self.entries, self.wanted, left_out=self.left_out, assemble=self.assemble)


def read_config(folder: Path) -> dict[str, Any]:
    """`folder`/config.json; CheckpointError where it cannot be read, or the folder holds a pipe, which would be waited for."""
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder}: not a checkpoint folder (no config.json)")
    for path in files_in(folder):
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: is not a regular file")
    try:
        config: dict[str, Any] = read_json(folder / "config.json")
    except ForeignError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder}/config.json: must be an object, is {type(config).__name__}")
    return config


def check_sizes(folder: Path, parameters: int) -> None:
    """CheckpointError where a config.json describes more parameters than the files of `folder` have room for: before a model of
    them is made."""
    there = sum(path.stat().st_size for path in files_in(folder) if path.suffix in _WEIGHTS)
    if there and 2 * parameters > there:
        raise CheckpointError(
            f"{folder}: config.json describes at least {parameters:,} parameters, all weights there have {there:,} bytes"
        )


def files_in(folder: Path) -> list[Path]:
    """All in it that is no folder."""
    found = [Path(place) / name for place, _, names in os.walk(folder) for name in names]
    if len(found) > _MOST_FILES:
        raise CheckpointError(f"{folder}: holds {len(found):,} files; at most {_MOST_FILES:,} are looked at")
    return sorted(found)


def fingerprint(folder: Path) -> str:
    """The folder's name, and eight hex digits of every file of weights in it: folders of one name with other weights differ, in
    one number too. Reads all of them, as loading does."""
    digest = hashlib.sha256()
    for path in (path for path in files_in(folder) if path.suffix in _WEIGHTS):
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
    assemble: Callable[[list[Tensor], torch.Size], Tensor] = _only,
) -> None:
    """Copy released entries into `model`, converted to its dtype, holding no more than the parts of unfinished ones.

    Args:
        entries: (released name, tensor), as they come. wanted: of every name of `model` the released parts it is made of.
        left_out: released names that no forward uses. assemble: a parameter out of its parts, for a shape.

    Two names of `model` for one tensor (tie_word_embeddings) need one entry; where both are there, they must be equal.

    Raises:
        CheckpointError: an entry is missing, unknown, of another shape, there twice with other values, or holds no number.
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
        if made.is_floating_point() != place.is_floating_point() or made.is_complex():
            raise CheckpointError(f"{folder}: {theirs} is {made.dtype}, allowed: as {place.dtype}")
        if made.shape != place.shape:
            raise CheckpointError(
                f"{folder}: {theirs} has shape {list(made.shape)}, this preset's is {list(place.shape)}"
            )
        if not _finite(made):
            raise CheckpointError(f"{folder}: {theirs} holds NaN or infinity")
        twins = alike[_place(place)] - {name}
        if twins & done and not _equal(made, place):
            raise CheckpointError(f"{folder}: {theirs} differs from {min(twins)}, to which config.json ties it")
        if name in done and not _equal(made, place):
            raise CheckpointError(f"{folder}: {theirs} is there twice and differs: keep the shards of one save")
        place.copy_(made)
        done |= {name, *twins}
    missing = [part for name in wanted if name not in done for part in wanted[name]]
    for kind, names in (("lacks", missing), ("has unknown", unknown)):
        if names:
            rest = f" and {len(names) - 1} more entries" if len(names) > 1 else ""
            raise CheckpointError(f"{folder}: the checkpoint {kind} {names[0]}{rest}")


def _finite(tensor: Tensor) -> bool:
    if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(math.isfinite(end.item()) for end in tensor.aminmax())


def _equal(made: Tensor, place: Tensor) -> bool:
    """Numbers of the meta device are not known."""
    return place.is_meta or torch.equal(made.to(place), place)


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
    try:
        with TensorFile(path) as file:
            for name, entry in file.header.entries.items():
                yield name, lambda name=name: file.read(name), entry.shape  # type: ignore[misc]
    except ForeignError as error:
        raise CheckpointError(str(error)) from None


def _shards(folder: Path) -> list[Path]:
    """CheckpointError where there are none."""
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not found:
        raise CheckpointError(f"{folder}: no weights (*.safetensors or pytorch_model*.bin)")
    for index in sorted(folder.glob(f"*{found[0].suffix}.index.json")):
        _check_index(index)
    return found


def _check_index(index: Path) -> None:
    """CheckpointError where an index names a shard that is not there."""
    try:
        listed = read_json(index)
    except ForeignError as error:
        raise CheckpointError(str(error)) from None
    shards = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise CheckpointError(f"{index}: has no weight_map of file names")
    for name, shard in shards.items():
        if Path(shard).name != shard or not (index.parent / shard).is_file():
            raise CheckpointError(f"{index}: says that {shown(name)} is in {shown(shard)}, which is not in this folder")


def is_weights(path: Path) -> bool:
    """A file of weights, or the index of several."""
    return path.suffix in _WEIGHTS or path.name.endswith(".index.json")


def has_weights(folder: Path) -> bool:
    """Whether entries can be read there."""
    return any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def refuse_untaken(names: Iterable[str], left_out: re.Pattern[str]) -> None:
    """CheckpointError for released entries that were not taken, but for those `left_out`."""
    untaken = sorted(name for name in names if not left_out.fullmatch(name))
    if untaken:
        rest = f" and {len(untaken) - 1} more entries" if len(untaken) > 1 else ""
        raise CheckpointError(f"the model has no place for {untaken[0]}{rest}")


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of every entry of the weights in `folder`; nothing where there are none, or they cannot be read."""
    try:
        return listed(folder)
    except CheckpointError:
        return {}


def listed(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every entry of the weights in `folder`; CheckpointError where there are none, or they cannot be read."""
    return {name: shape for path in _shards(folder) for name, _, shape in _listed(path)}


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


def unpickled(path: Path, inner: str | None = None) -> dict[str, Tensor]:
    """A pickled state dict, tensors only. inner: the name under which it may stand, beside what else was saved."""
    try:
        check_regular(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, ImportError) as error:
        if no_room(error) is not None:
            raise
        raise CheckpointError(f"{path}: cannot be read ({first_line(error)})") from None
    except MemoryError:
        raise
    except Exception as error:  # pickle.UnpicklingError, and what a broken file makes of it
        raise CheckpointError(f"{path}: not a file of tensors ({type(error).__name__})") from None
    if inner is not None and isinstance(loaded, dict) and isinstance(loaded.get(inner), dict):
        loaded = loaded[inner]
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: not a file of tensors, but of a {type(loaded).__name__}")
    for name, value in loaded.items():
        plain = isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"
        if not isinstance(name, str) or not plain or value.is_quantized:
            raise CheckpointError(f"{path}: not a file of tensors, {shown(name)} is none")
    return loaded
