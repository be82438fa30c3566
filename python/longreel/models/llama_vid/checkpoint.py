"""Released weights and sizes of LLaMA-VID."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from longreel.models.checkpoint import CheckpointError, entries, fill, read_config, sized_language, unpickled
from longreel.models.llama_vid.key_map import TOWER, assemble, released_names
from longreel.models.llama_vid.model import LlamaVid
from longreel.models.llama_vid.presets import Preset

__all__ = ["TOWER_FILE", "CheckpointError", "load", "sized"]

# The tower as LAVIS publishes it, without a prefix; released folders point at it and may lack the tower's entries.
TOWER_FILE = "eva_vit_g.pth"
# Made anew by every model, or of parts that no forward uses.
_LEFT_OUT = re.compile(
    r".*\.rotary_emb\.inv_freq|.*\.position_ids|" + re.escape(TOWER) + r"(blocks\.39\..*|norm\..*|fc_norm\..*|head\..*)"
)


def sized(preset: Preset, folder: Path) -> Preset:
    """`preset` with what `folder`/config.json says: the language model's sizes, width of the patches, compress_type.

    Raises:
        CheckpointError: no such folder, no config.json in it, or one that cannot be read.
    """
    config = read_config(folder)
    tower = replace(preset.tower, width=config.get("mm_hidden_size", preset.tower.width))
    qformer = replace(preset.qformer, queries=config.get("num_query", preset.qformer.queries))
    compress = config.get("compress_type", preset.compress)
    language = sized_language(preset.language, config)
    return replace(preset, tower=tower, qformer=qformer, language=language, compress=compress)


def load(model: LlamaVid, folder: Path) -> None:
    """Copy the released entries of `folder` into `model`, one shard in memory at a time; a tower missing there comes from
    `folder`/eva_vit_g.pth.

    Raises:
        CheckpointError: an entry is missing, unknown, or of another shape.
    """
    fill(model, folder, _entries(folder), released_names(model), left_out=_LEFT_OUT, assemble=assemble)


def _entries(folder: Path) -> Iterator[tuple[str, Tensor]]:
    yield from entries(folder)
    tower = folder / TOWER_FILE
    if tower.exists():
        yield from ((TOWER + name, value) for name, value in unpickled(tower).items())
