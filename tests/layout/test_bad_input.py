"""What a layout cannot be made of is refused in one line, that says what was given and what is allowed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from longreel import VideoLayout, use_layout
from longreel.testing.host import NoHost

pytestmark = pytest.mark.fast
LENGTHS = torch.tensor([0, 2, 4])
from_cu, from_mask, blocks = VideoLayout.from_cu_seqlens, VideoLayout.from_mask, VideoLayout.blocks


def causal(b: Any, h: Any, q: Any, k: Any) -> Any:
    return q >= k


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "blocks of nothing": (lambda: blocks(None), "ids is an integer array"),  # type: ignore[arg-type]
    "blocks of floats": (lambda: blocks([0.5, 1.0]), "ids is an integer array"),  # type: ignore[list-item]
    "blocks of text": (lambda: blocks("001"), "ids is an integer array"),  # type: ignore[arg-type]
    "blocks, causal as a word": (lambda: blocks([0, 0], causal="no"), "causal is 'no'; allowed: True or False"),  # type: ignore[arg-type]
    "lengths that fall": (lambda: from_cu(torch.tensor([0, 3, 1]), 3), r"must rise from 0 to 3 at most.*\[0, 3, 1\]"),
    "lengths from 1": (lambda: from_cu(torch.tensor([1, 3]), 3), "must rise from 0"),
    "lengths beyond the rows": (lambda: from_cu(torch.tensor([0, 9]), 3), "must rise from 0 to 3 at most"),
    "lengths as a list": (lambda: from_cu([0, 2], 2), "integer tensor .* given list"),  # type: ignore[arg-type]
    "lengths as floats": (lambda: from_cu(torch.tensor([0.0, 2.0]), 2), "given torch.float32"),
    "lengths as bools": (lambda: from_cu(torch.tensor([False, True]), 1), "given torch.bool"),
    "lengths, complex": (lambda: from_cu(torch.tensor([0j, 2]), 2), "given torch.complex64"),
    "lengths of two dimensions": (lambda: from_cu(LENGTHS[None], 4), r"given torch.int64 \[1, 3\]"),
    "rows as a float": (lambda: from_cu(LENGTHS, 4.0), "rows is a whole number; given 4.0"),  # type: ignore[arg-type]
    "rows as a bool": (lambda: from_cu(LENGTHS, True), "rows is a whole number; given True"),
    "lengths, causal as a word": (lambda: from_cu(LENGTHS, 4, causal="no"), "causal is 'no'"),  # type: ignore[arg-type]
    "a tile of none": (lambda: from_cu(LENGTHS, 4, tile=(0, 4)), "tile's rows=0 is below 1"),
    "a tile of halves": (lambda: from_cu(LENGTHS, 4, tile=(1.5, 2)), "tile's rows is a whole"),  # type: ignore[arg-type]
    "a tile as a number": (lambda: from_cu(LENGTHS, 4, tile=16), "tile is a pair"),  # type: ignore[arg-type]
    "a mask for a function": (lambda: from_mask(torch.ones(4, 4), 4), "mask_function is a Tensor"),  # type: ignore[arg-type]
    "a function of floats": (
        lambda: from_mask(lambda b, h, q, k: torch.where(q >= k, 0.0, -1e9), 4),
        "gives torch.float32; allowed: bool, True where row q attends to key k",
    ),
    "a function of nothing": (lambda: from_mask(lambda b, h, q, k: None, 4), "gives NoneType; allowed: bool"),
    "a function of other shapes": (lambda: from_mask(lambda b, h, q, k: torch.ones(2).bool(), 4), r"gives \[2\] for"),
    "a length of none": (lambda: from_mask(causal, -1), "length=-1 is below 0"),
    "no segments": (lambda: VideoLayout.of(None), "segments are a list of .kind, rows.; given NoneType"),  # type: ignore[arg-type]
    "a segment as a number": (lambda: VideoLayout.of([3]), "a segment is .kind, rows., or a Segment; given 3"),  # type: ignore[list-item]
    "a word for yes": (
        lambda: VideoLayout.voco(frames=1, vision=2, voco=1, text=0, text_sees_prefix="no"),  # type: ignore[arg-type]
        "text_sees_prefix is 'no'; allowed: True or False",
    ),
    "a batch of one": (
        lambda: VideoLayout.batch(VideoLayout.causal(3)),
        "takes a list of layouts; given a VideoLayout",
    ),  # type: ignore[arg-type]
    "a batch of others": (lambda: VideoLayout.batch([VideoLayout.causal(3), 5]), "a list of layouts; a int is among"),  # type: ignore[list-item]
    "packed with others": (lambda: VideoLayout.packed([VideoLayout.causal(3), None]), "a NoneType is among"),  # type: ignore[list-item]
    "half a tile": (lambda: VideoLayout.causal(3).plan((4,)), "tile is a pair"),  # type: ignore[arg-type]
    "a tile of none at all": (lambda: VideoLayout.causal(3).plan(None), "tile is a pair"),  # type: ignore[arg-type]
    "a tile beyond numbers": (lambda: from_cu(LENGTHS, 4, tile=(2**62, 4)), r"at most 2\^31"),
    "rows beyond 32 bits": (lambda: from_cu(LENGTHS, 2**31), "rows=2147483648 is above 2147483647"),
    "a mask beyond 32 bits": (lambda: from_mask(causal, 2**40), "length=1099511627776 is above"),
    "rows of a bool": (lambda: VideoLayout.causal(True), "given True"),
    "a number in force": (lambda: use_layout(3).__enter__(), "layout is a int; allowed: VideoLayout, or what"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", BAD)
def test_refused_in_a_line(name: str) -> None:
    make, says = BAD[name]
    with pytest.raises((TypeError, ValueError), match=says) as said:
        make()
    assert "\n" not in str(said.value)


def test_lengths_that_are_right_are_not_waited_for() -> None:
    with NoHost():
        for ends, rows in (([0], 3), ([0, 0, 2, 2], 2), ([0, 2, 2, 2], 7)):
            from_cu(torch.tensor(ends), rows)
