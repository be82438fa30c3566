"""Released checkpoints, of whatever files, into one folder of safetensors that loads at once."""

import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longreel.files.foreign import shown
from longreel.files.output import OutputFolder, write_text
from longreel.files.tensors import NAMES, bytes_of, write_tensors
from longreel.models import registry
from longreel.models.checkpoint import CheckpointError, Released, files_in, is_weights
from longreel.models.loading import recognised
from longreel.models.setup import setup_of
from longreel.models.system import InputFacts, System

# Of a shard; and of a file beside the weights, those that describe and those of tokenizers.
SHARD = 4 << 30
_BESIDE, _LARGEST = (".json", ".txt", ".model", ".jinja"), 64 << 20


class Converted(NamedTuple):
    """system: its name. entries, bytes, shards: of what was written."""

    system: str
    entries: int
    bytes: int
    shards: int


def convert(
    source: Path,
    target: Path,
    system: str | None = None,
    preset: str = "7b",
    *,
    shard: int = SHARD,
    told: Callable[[str], None] = lambda name: None,
) -> Converted:
    """Every entry of a released checkpoint, as it is, in safetensors, with config.json and the tokenizers beside it.

    All is checked before a byte is written, against a model of the sizes that config.json says; the target appears whole or not
    at all. What no forward reads is kept too.

    Args:
        source: as `--checkpoint` takes it. target: a folder that is not there yet, or is empty.
        system: its name; None: the one whose entries these are. preset: what config.json leaves open.
        shard: bytes of a file at most, but for a larger entry. told: is told every entry that is checked, before and behind.

    Raises:
        CheckpointError: no system's, or an entry is missing, unknown, damaged, of another shape, or holds no number.
        ValueError: target is there already. OSError: it cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target}: is there already; allowed: a new folder, or an empty one")
    if not source.is_dir():
        raise CheckpointError(f"{source}: {'is no folder' if source.exists() else 'no such folder'}")
    found = recognised(source) if system is None else registry.find(system)
    model, released = _opened(found, preset, source)
    plan = _checked(model, released, source, told)
    with OutputFolder(target) as out:
        shards = _write(out.part, plan, _opened(found, preset, source)[1], shard)
        _copy_beside(source, released.config, out.part)
        # Opened as it will be: a fault of ours shows here.
        again, written = _opened(found, preset, out.part)
        if _checked(again, written, out.part, told) != plan:
            raise CheckpointError(f"{source}: was written to while it was read, or {out.part} was")
    return Converted(found.name, len(plan), sum(size for _, _, size, _ in plan.values()), shards)


def _opened(system: System, preset: str, folder: Path) -> tuple[Any, Released]:
    """A model of its sizes, without numbers, and what is in the folder."""
    setup = setup_of(system.name, preset, folder)
    facts = InputFacts(setup.prefix, still=False, expected=None)
    model = system.build(setup.preset, setup.options, facts, None, device=torch.device("meta"))
    return model, system.released(model, folder)


_Plan = dict[str, tuple[torch.dtype, tuple[int, ...], int, int]]
"""dtype, shape, bytes and their checksum of every entry."""


def _checked(model: Any, released: Released, source: Path, told: Callable[[str], None]) -> _Plan:
    plan: _Plan = {}

    def looked_at() -> Iterator[tuple[str, Tensor]]:
        for name, value in released.entries:
            told(name)
            if value.dtype not in NAMES:
                raise CheckpointError(f"{source}: {shown(name)} is {value.dtype}; allowed: {', '.join(NAMES.values())}")
            kind = value.dtype, tuple(value.shape), value.nbytes, zlib.crc32(bytes_of(value))
            if plan.setdefault(name, kind) != kind:
                raise CheckpointError(
                    f"{source}: {shown(name)} is there twice and differs: keep the shards of one save"
                )
            yield name, value

    Released(looked_at(), *released[1:]).fill(model, source)
    return plan


def _write(folder: Path, plan: _Plan, released: Released, most: int) -> int:
    """Shards, in the order in which entries are read, and their index; how many."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, (_, _, count, _) in plan.items():
        if groups[-1] and size + count > most:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += count
    names = [f"model-{index + 1:05}-of-{len(groups):05}.safetensors" for index in range(len(groups))]
    held, done = dict[str, Tensor](), 0
    for name, value in released.entries:
        # What is there twice is the same, and comes again when the first may be written already.
        if done < len(groups) and name in groups[done]:
            held[name] = value
        if done < len(groups) and len(held) == len(groups[done]):
            write_tensors(folder / names[done], held, {"format": "pt"})
            held, done = {}, done + 1
    if len(groups) > 1:
        places = {entry: shard for shard, group in zip(names, groups, strict=True) for entry in group}
        total = sum(count for _, _, count, _ in plan.values())
        write_text(
            folder / "model.safetensors.index.json",
            json.dumps({"metadata": {"total_size": total}, "weight_map": places}),
        )
    return len(groups)


def _copy_beside(source: Path, config: Path, target: Path) -> None:
    """config.json and tokenizers, in their folders; those of the folder that describes the language model on top."""
    for folder in dict.fromkeys((source, config)):
        for path in files_in(folder):
            place = target / path.relative_to(folder)
            if path.suffix not in _BESIDE or is_weights(path) or path.stat().st_size > _LARGEST:
                continue
            if folder == source != config and path.is_relative_to(config):
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
