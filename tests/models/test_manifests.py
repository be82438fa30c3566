"""Every entry of the released models, by name and shape: a model of true size, on the meta device, takes each of them, and the
loaders neither lack one nor meet one that they do not know."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from longreel.models import checkpoint, clip
from longreel.models.eva import assemble
from longreel.models.llama_vid import checkpoint as llama_vid
from longreel.models.llama_vid import key_map, model
from longreel.models.llama_vid import presets as llama_vid_presets
from longreel.models.released_config import CheckpointError
from longreel.models.video_llama import checkpoint as video_llama
from longreel.models.video_llama import model as video_llama_model
from longreel.models.video_llama import presets as video_llama_presets
from longreel.models.video_xl import model as video_xl
from longreel.models.video_xl import presets as video_xl_presets
from longreel.models.voco_llama import model as voco_llama
from longreel.models.voco_llama import presets as voco_presets

FOLDER = Path(__file__).parent / "manifests"
Shapes = dict[str, tuple[int, ...]]


class Manifest(NamedTuple):
    """What is read, and what is in the files and no forward reads."""

    read: Shapes
    unread: Shapes


def manifest(name: str, prefix: str = "", layers: int = 0) -> Manifest:
    """`manifests`/name.txt. A line is a name with {choices} and its shape, behind "unread" or "last" (read where `layers` are
    24); or ``include FILE [as PREFIX] [up to LAYERS]``."""
    read, unread = Shapes(), Shapes()
    for line in (FOLDER / f"{name}.txt").read_text().splitlines():
        found = re.fullmatch(r"include (\w+)(?: as (\S+))?(?: up to (\d+))?", line)
        if found:
            inner = manifest(found[1], prefix + (found[2] or ""), int(found[3] or 0))
            assert not (read.keys() | unread.keys()) & (inner.read.keys() | inner.unread.keys())
            read.update(inner.read)
            unread.update(inner.unread)
        elif line and not line.startswith("#"):
            kind, pattern, shape = re.fullmatch(r"(?:(unread|last) )?(\S+) (\[.*\])", line).groups()  # type: ignore[union-attr]
            room = unread if kind == "unread" or (kind == "last" and layers < 24) else read
            for one in expanded(pattern):
                assert prefix + one not in read.keys() | unread.keys(), f"{name}: {one} is there twice"
                room[prefix + one] = tuple(json.loads(shape))
    return Manifest(read, unread)


def expanded(pattern: str) -> Iterator[str]:
    """Names of a pattern: {a,b} and {0..3}, one inside another, too."""
    inner = re.search(r"\{([^{}]*)\}", pattern)
    if inner is None:
        # what stood inside another
        yield pattern
        return
    first, _, last = inner[1].partition("..")
    choices = map(str, range(int(first), int(last) + 1)) if last else inner[1].split(",")
    before, behind = pattern[: inner.start()], pattern[inner.end() :]
    open_, close = _around(pattern, inner.start())
    if open_ < 0:
        for choice in choices:
            yield from expanded(before + choice + behind)
        return
    # a choice of the outer braces: written out there
    parts = list(_choices(pattern[open_ + 1 : close]))
    for part in parts:
        yield from expanded(pattern[:open_] + part + pattern[close + 1 :])


def _around(pattern: str, place: int) -> tuple[int, int]:
    """The outermost braces around `place`; (-1, -1): none."""
    depth, start = 0, -1
    for index, letter in enumerate(pattern):
        if letter == "{":
            start = index if depth == 0 else start
            depth += 1
        elif letter == "}":
            depth -= 1
            if depth == 0 and start < place < index:
                return start, index
    return -1, -1


def _choices(text: str) -> Iterator[str]:
    """Parts of `text` between commas that stand in no braces."""
    depth, part = 0, ""
    for letter in text:
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            yield part
            part = ""
        else:
            part += letter
    yield part


def test_patterns() -> None:
    assert list(expanded("a.{0..2}.{x,y}")) == ["a.0.x", "a.0.y", "a.1.x", "a.1.y", "a.2.x", "a.2.y"]
    assert list(expanded("{p.{0,1},q}.w")) == ["p.0.w", "p.1.w", "q.w"]


def _named(released_name: Any) -> Any:
    return lambda made: {name: (released_name(name),) for name in made.state_dict()}


# The model, its presets, its released names of ours, and what its loader gives `fill`.
SYSTEMS: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "llama_vid_7b": (
        model.LlamaVid, llama_vid_presets, key_map.released_names, {"left_out": llama_vid._LEFT_OUT, "assemble": assemble},
    ),
    "voco_llama_7b": (
        voco_llama.VoCoLlama, voco_presets, _named(voco_llama.released_name), {"left_out": clip.left_out(23, 24)},
    ),
    "video_xl_7b": (
        video_xl.VideoXL, video_xl_presets, _named(video_xl.released_name), {"left_out": clip.left_out(24, 24)},
    ),
    "video_llama_7b": (
        video_llama_model.VideoLlama, video_llama_presets,
        lambda made: {name: video_llama.released_names(name) for name in made.state_dict()},
        {"left_out": video_llama._LEFT_OUT, "assemble": assemble},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_entry_of_a_released_model(name: str) -> None:
    make, presets, names, options = SYSTEMS[name]
    made = make(presets.PRESETS["7b"], device="meta")
    listed = manifest(name)
    wanted = names(made)
    assert sorted(itertools.chain(*wanted.values())) == sorted(listed.read)

    def fill(entries: Shapes) -> None:
        tensors = ((key, torch.empty(shape, device="meta")) for key, shape in entries.items())
        checkpoint.fill(made, Path(name), tensors, wanted, **options)

    every = listed.read | listed.unread
    fill(every)
    one = next(reversed(listed.read))
    with pytest.raises(CheckpointError, match=f"lacks {re.escape(one)}$"):
        fill({key: shape for key, shape in every.items() if key != one})
    with pytest.raises(CheckpointError, match=r"has unknown model\.extra\.weight$"):
        fill(every | {"model.extra.weight": (1,)})
    with pytest.raises(CheckpointError, match=re.escape(one) + " has shape"):
        fill(every | {one: (*listed.read[one], 2)})
