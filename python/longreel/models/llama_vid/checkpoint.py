"""Released weights and sizes of LLaMA-VID."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from longreel.models.checkpoint import (
    CheckpointError,
    Released,
    entries,
    projector_of,
    read_config,
    shapes,
    sized_language,
    unpickled,
)
from longreel.models.eva import TOWER_FILE, UNREAD, assemble
from longreel.models.llama_vid.key_map import TOWER, released_names
from longreel.models.llama_vid.model import LlamaVid
from longreel.models.llama_vid.presets import LlamaVidPreset, QFormerSize, TextDecoder
from longreel.models.released_config import check_allowed, count
from longreel.nn.context_attention import pooling_of

__all__ = ["TOWER_FILE", "CheckpointError", "load", "sized"]

# Entries of config.json that are read here.
_READ = (
    "mm_hidden_size", "mm_vision_tower", "mm_vision_select_feature", "mm_vision_select_layer", "mm_projector_type", "bert_type",
    "num_query", "compress_type",
)  # fmt: skip
# Of the patches that the released Q-Former was pretrained on.
_PRETRAINED_WIDTH = 1408
# Made anew by every model, or of parts that no forward uses.
_LEFT_OUT = re.compile(r".*\.rotary_emb\.inv_freq|.*\.position_ids|" + re.escape(TOWER) + rf"({UNREAD})")


def sized(preset: LlamaVidPreset, folder: Path) -> LlamaVidPreset:
    """`preset` with all that `folder`/config.json says: the language model, the text decoder, the projector, width of the
    patches and compress_type. What it leaves out is what the folder's entries show.

    Raises:
        CheckpointError: no such folder, no config.json in it, one that cannot be read, or an entry that is not understood.
    """
    config, where, there = read_config(folder), f"{folder}/config.json", shapes(folder)
    _check_tower(config, where)
    width = count(config, where, "mm_hidden_size", preset.tower.width)
    compress = config.get("compress_type")
    try:
        pooling_of(compress if compress is None else str(compress))
    except ValueError as error:
        raise CheckpointError(f"{where}: compress_type: {error}") from None
    decoder, qformer = _text_decoder(config, there, preset, width, where)
    return replace(
        preset,
        tower=replace(preset.tower, width=width),
        text_decoder=decoder,
        qformer=replace(qformer, queries=count(config, where, "num_query", qformer.queries)),
        language=sized_language(preset.language, config, where, _READ),
        compress=compress,
        projector=projector_of(config, there, preset.projector, where),
        cls_as_patch=config.get("mm_vision_select_feature") == "cls_patch",
    )


def _check_tower(config: Mapping[str, Any], where: str) -> None:
    name = config.get("mm_vision_tower")
    if name is not None and "eva" not in Path(str(name)).name.lower():
        raise CheckpointError(f"{where}: mm_vision_tower {name!r}: this system's tower is EVA-g ({TOWER_FILE})")
    check_allowed(config, where, "mm_vision_select_feature", (None, "patch", "cls_patch"))
    if config.get("mm_vision_select_feature") == "cls_patch" and config.get("compress_type") not in (None, "mean"):
        raise CheckpointError(f"{where}: mm_vision_select_feature 'cls_patch' leaves no grid for compress_type grid:g")


def _text_decoder(
    config: Mapping[str, Any], there: Mapping[str, tuple[int, ...]], preset: LlamaVidPreset, width: int, where: str
) -> tuple[TextDecoder, QFormerSize]:
    """`bert_type`: "qformer", "qformer_pretrain" or "raw", with words on what was frozen; "raw" may have "layer:k" behind it."""
    kind, size = config.get("bert_type"), preset.qformer
    projected = there.get("model.vlm_att_bert_proj.weight", (None,))[0]
    if kind is None:
        if not any(name.startswith("model.vlm_att_") for name in there):
            return preset.text_decoder, size
        if "model.vlm_att_query" not in there:
            return "bert", size
        return "qformer", replace(size, norm="model.vlm_att_ln.weight" in there, reads=projected)
    words = re.fullmatch(r"(qformer|raw)((?:_bert)?)((?:_pretrain)?)(?:_freeze(?:_all)?)?(?:_?layer:(\d+))?", str(kind))
    if words is None or (words[1] == "raw" and words[3]) or (words[1] == "qformer" and (words[2] or words[4])):
        raise CheckpointError(
            f"{where}: bert_type {kind!r} is not understood; there is qformer, qformer_pretrain and raw_bert, with _freeze or"
            " _freeze_all, and raw_bert with layer:k"
        )
    if words[1] == "raw":
        return "bert", replace(size, layers=min(size.layers, int(words[4] or size.layers)))
    # Behind a projection it reads what it was pretrained on, where the patches have another width.
    reads = projected if words[3] and width != _PRETRAINED_WIDTH else None
    return "qformer", replace(size, norm=bool(words[3]), reads=reads)


def load(model: LlamaVid, folder: Path) -> None:
    """Copy the released entries of `folder` into `model`, one shard in memory at a time; a tower missing there comes from
    `folder`/eva_vit_g.pth.

    Raises:
        CheckpointError: an entry is missing, unknown, or of another shape.
    """
    released(model, folder).fill(model, folder)


def released(model: LlamaVid, folder: Path) -> Released:
    """What `load` reads."""
    return Released(_entries(folder), released_names(model), _LEFT_OUT, folder, assemble)


def _entries(folder: Path) -> Iterator[tuple[str, Tensor]]:
    yield from entries(folder)
    tower = folder / TOWER_FILE
    if tower.exists():
        there = shapes(folder)
        yield from ((TOWER + name, value) for name, value in unpickled(tower).items() if TOWER + name not in there)
