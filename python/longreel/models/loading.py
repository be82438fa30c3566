"""A system's model with released weights, by its folder alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from longreel.models import registry
from longreel.models.checkpoint import CheckpointError, listed
from longreel.models.setup import setup_of
from longreel.models.system import InputFacts, System


def from_pretrained(
    folder: str | Path,
    system: str | None = None,
    *,
    preset: str = "7b",
    dtype: torch.dtype | None = None,
    device: str | None = None,
    **options: Any,
) -> Any:
    """The model of a released checkpoint: safetensors or pickled shards (read as tensors only), or what `longreel convert` wrote.

    Args:
        folder: as `longreel run --checkpoint` takes it. system: its name; None: the one whose entries these are.
        preset: what config.json leaves open. dtype: None: the preset's; a GPU computes in bfloat16. device: None: the GPU where
            there is one.
        options: of the system, as the flags of `longreel run`.

    Raises:
        CheckpointError: no system's, or an entry is missing, unknown, damaged, of another shape, or holds no number.
        ValueError: another system, preset or option than there is.
    """
    folder = Path(folder)
    found = recognised(folder) if system is None else registry.find(system)
    setup = setup_of(found.name, preset, folder, device, options)
    size = setup.preset if dtype is None else replace(setup.preset, dtype=str(dtype).removeprefix("torch."))
    facts = InputFacts(setup.prefix, still=False, expected=None)
    return found.build(size, setup.options, facts, None, device=setup.device, checkpoint=folder)


def recognised(source: Path) -> System:
    """The system whose entries a folder has.

    Raises:
        CheckpointError: it cannot be read, or no system's alone.
    """
    found = [system for system in registry.every() if system.recognises(source)]
    if len(found) != 1:
        # What cannot be read is of nobody: that is said first.
        listed(source)
        which = " and ".join(system.name for system in found) or f"no system of {', '.join(registry.SYSTEMS)}"
        raise CheckpointError(f"{source}: its entries are of {which}: name it, --system NAME")
    return found[0]
